package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/runtime/graphx"
	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/runners/universal/extworker"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
)

// A client submits jobs, whose workers are in this process or started by the
// server.
type client struct {
	jobs  jobpb.JobServiceClient
	limit time.Duration // of a job
	here  *extworker.Loopback
	start string // the command that starts a worker
}

// dial connects to a job endpoint; hang up with close.
func dial(ctx context.Context, endpoint, dir string, limit time.Duration) (c *client, hangUp func(), err error) {
	conn, err := grpc.NewClient("passthrough:///"+endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(256<<20), grpc.MaxCallSendMsgSize(256<<20)))
	if err != nil {
		return nil, nil, err
	}
	here, err := extworker.StartLoopback(ctx, 0)
	if err != nil {
		return nil, nil, errors.Join(err, conn.Close())
	}
	c = &client{jobs: jobpb.NewJobServiceClient(conn), here: here, limit: limit}
	c.start, err = startScript(dir)
	return c, func() { _ = errors.Join(here.Stop(ctx), conn.Close()) }, err
}

// startScript writes a command that starts this program as a worker, with those
// flags that it knows.
func startScript(dir string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "worker.sh")
	return path, os.WriteFile(path, []byte(strings.Join([]string{
		`#!/bin/sh`,
		`for a; do`,
		`  case $a in --id=*|--logging_endpoint=*|--control_endpoint=*) set -- "$@" "$a";; esac`,
		`  shift`,
		`done`,
		`exec '` + self + `' --worker=true "$@"`,
		``,
	}, "\n")), 0o700) // #nosec: it is to be executed
}

// run runs a pipeline to its end.
func (c *client) run(ctx context.Context, name string, pipeline *beam.Pipeline, w way) error {
	ctx, cancel := context.WithTimeout(ctx, c.limit)
	defer cancel()
	p, err := c.marshal(ctx, pipeline, w.Kill)
	if err != nil {
		return err
	}
	options := &structpb.Struct{Fields: map[string]*structpb.Value{}}
	for _, o := range w.Options {
		k, v, _ := strings.Cut(o, "=")
		options.Fields["beam:option:"+k+":v1"] = structpb.NewStringValue(v)
	}
	prepared, err := c.jobs.Prepare(ctx, &jobpb.PrepareJobRequest{JobName: name, Pipeline: p, PipelineOptions: options})
	if err != nil {
		return fmt.Errorf("prepare: %w", err)
	}
	job, err := c.jobs.Run(ctx, &jobpb.RunJobRequest{PreparationId: prepared.GetPreparationId()})
	if err != nil {
		return fmt.Errorf("run: %w", err)
	}
	err = c.wait(ctx, job.GetJobId())
	if ctx.Err() != nil { // nobody else would end it
		_, _ = c.jobs.Cancel(context.WithoutCancel(ctx), &jobpb.CancelJobRequest{JobId: job.GetJobId()})
	}
	return err
}

// wait waits for a job's end.
func (c *client) wait(ctx context.Context, id string) error {
	stream, err := c.jobs.GetMessageStream(ctx, &jobpb.JobMessagesRequest{JobId: id})
	if err != nil {
		return err
	}
	state, said := jobpb.JobState_UNSPECIFIED, ""
	for {
		in, err := stream.Recv()
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("job %s has not ended (%s): %w", id, state, err)
		}
		if st := in.GetStateResponse(); st != nil {
			state = st.GetState()
		}
		if m := in.GetMessageResponse(); m.GetImportance() == jobpb.JobMessage_JOB_MESSAGE_ERROR {
			said += m.GetMessageText() + "\n"
		}
	}
	if state != jobpb.JobState_DONE {
		return fmt.Errorf("job %s ended %s: %s", id, state, said)
	}
	return nil
}

// marshal makes the proto, with workers here or in processes of their own.
func (c *client) marshal(ctx context.Context, pipeline *beam.Pipeline, processes bool) (*pipepb.Pipeline, error) {
	edges, _, err := pipeline.Build()
	if err != nil {
		return nil, err
	}
	env, err := graphx.CreateEnvironment(ctx, "beam:env:external:v1", c.here.EnvironmentConfig)
	if err != nil {
		return nil, err
	}
	env.Dependencies = nil
	if processes {
		env.Urn = "beam:env:process:v1"
		if env.Payload, err = proto.Marshal(&pipepb.ProcessPayload{Command: c.start}); err != nil {
			return nil, err
		}
	}
	p, err := graphx.Marshal(edges, &graphx.Options{Environment: env})
	if err != nil {
		return nil, err
	}
	return p, setCoders(p)
}
