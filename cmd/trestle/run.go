package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"trestle/jobservice/artifact"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
)

func runCommand() *cobra.Command {
	var cl client
	var asJSON, detach bool
	var name string
	var options []string
	c := &cobra.Command{
		Use:   "run FILE.pb",
		Short: "Submit a pipeline from a file and wait for its end",
		Long: `Submit a pipeline from a file and wait for its end.

FILE holds a pipeline proto, binary or as JSON. Artifacts that it names as files
are staged from this machine. The exit status is that of trestle wait.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			p, err := readPipeline(args[0])
			if err != nil {
				return err
			}
			o, err := parseOptions(options)
			if err != nil {
				return err
			}
			if name == "" {
				name = strings.TrimSuffix(filepath.Base(args[0]), filepath.Ext(args[0]))
			}
			id, err := submit(c.Context(), &cl, &jobpb.PrepareJobRequest{JobName: name, Pipeline: p, PipelineOptions: o})
			if err != nil {
				return said(err)
			}
			if detach {
				fmt.Fprintln(c.OutOrStdout(), id)
				return nil
			}
			return waitFor(c.Context(), c, &cl, id, asJSON)
		},
	}
	c.Flags().StringVar(&name, "name", "", "the job's name; the file's if empty")
	c.Flags().StringArrayVarP(&options, "option", "o", nil, "pipeline option `NAME=VALUE`; may be given several times")
	c.Flags().BoolVar(&detach, "detach", false, "print the job's id and don't wait")
	addressFlags(c, &cl)
	jsonFlag(c, &asJSON)
	return c
}

func parseOptions(list []string) (*structpb.Struct, error) {
	o := &structpb.Struct{Fields: map[string]*structpb.Value{}}
	for _, s := range list {
		name, value, ok := strings.Cut(strings.TrimPrefix(s, "--"), "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("--option %s: must be NAME=VALUE", s)
		}
		o.Fields["beam:option:"+name+":v1"] = structpb.NewStringValue(value)
	}
	return o, nil
}

// submit prepares, stages and runs a job, as SDKs do.
func submit(ctx context.Context, cl *client, req *jobpb.PrepareJobRequest) (id string, err error) {
	jobs, conn, err := cl.dial()
	if err != nil {
		return "", err
	}
	defer conn.Close()
	prepared, err := jobs.Prepare(ctx, req)
	if err != nil {
		return "", err
	}
	if err := stage(ctx, prepared); err != nil {
		return "", err
	}
	run, err := jobs.Run(ctx, &jobpb.RunJobRequest{PreparationId: prepared.GetPreparationId()})
	if err != nil {
		return "", err
	}
	return run.GetJobId(), nil
}

// stage answers the server's requests for the job's files.
func stage(ctx context.Context, prepared *jobpb.PrepareJobResponse) error {
	conn, err := dialJobs(prepared.GetArtifactStagingEndpoint().GetUrl())
	if err != nil {
		return err
	}
	defer conn.Close()
	stream, err := jobpb.NewArtifactStagingServiceClient(conn).ReverseArtifactRetrievalService(ctx)
	if err != nil {
		return err
	}
	if err := stream.Send(&jobpb.ArtifactResponseWrapper{StagingToken: prepared.GetStagingSessionToken()}); err != nil {
		return err
	}
	for {
		req, err := stream.Recv()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		switch r := req.GetRequest().(type) {
		case *jobpb.ArtifactRequestWrapper_ResolveArtifact:
			err = stream.Send(&jobpb.ArtifactResponseWrapper{Response: &jobpb.ArtifactResponseWrapper_ResolveArtifactResponse{
				ResolveArtifactResponse: &jobpb.ResolveArtifactsResponse{Replacements: r.ResolveArtifact.GetArtifacts()},
			}})
		case *jobpb.ArtifactRequestWrapper_GetArtifact:
			err = sendFile(stream, r.GetArtifact.GetArtifact())
		}
		if err != nil && err != io.EOF { // after io.EOF Recv tells the reason
			return err
		}
	}
}

func sendFile(stream jobpb.ArtifactStagingService_ReverseArtifactRetrievalServiceClient, a *pipepb.ArtifactInformation) error {
	if a.GetTypeUrn() != artifact.TypeFile {
		return fmt.Errorf("artifact %s can't be staged from here: only files can", artifact.Label(a))
	}
	var payload pipepb.ArtifactFilePayload
	if err := proto.Unmarshal(a.GetTypePayload(), &payload); err != nil {
		return err
	}
	f, err := os.Open(payload.GetPath())
	if err != nil {
		return fmt.Errorf("stage artifact: %w", err)
	}
	defer f.Close()
	buf := make([]byte, 1<<20)
	for {
		n, err := f.Read(buf)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		sendErr := stream.Send(&jobpb.ArtifactResponseWrapper{
			IsLast: err == io.EOF,
			Response: &jobpb.ArtifactResponseWrapper_GetArtifactResponse{
				GetArtifactResponse: &jobpb.GetArtifactResponse{Data: buf[:n]},
			},
		})
		if sendErr != nil || err == io.EOF {
			return sendErr
		}
	}
}
