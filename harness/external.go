package harness

import (
	"context"
	"errors"
	"fmt"
	"time"

	"trestle/harness/contract"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// An external launcher asks a worker pool for workers: one that someone runs,
// or the client itself (LOOPBACK).
type external struct {
	address                  string
	params                   map[string]string
	dialTimeout, stopTimeout time.Duration
}

func (e *external) String() string { return "external worker pool " + e.address }

func (e *external) dial() (*grpc.ClientConn, error) {
	// gRPC's own resolver also asks name servers for a service configuration;
	// one that doesn't answer would hold up a connection to localhost for 5 s.
	return grpc.NewClient("passthrough:///"+e.address, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy())
}

func (e *external) launch(ctx context.Context, _ *fleet, _ string, w contract.Worker) (instance, error) {
	conn, err := e.dial()
	if err != nil {
		return nil, &finalError{err}
	}
	defer conn.Close()
	dialing, cancel := context.WithTimeout(ctx, e.dialTimeout)
	defer cancel()
	response, err := fnpb.NewBeamFnExternalWorkerPoolClient(conn).StartWorker(dialing, &fnpb.StartWorkerRequest{
		WorkerId:          w.ID,
		ControlEndpoint:   &pipepb.ApiServiceDescriptor{Url: w.Control},
		LoggingEndpoint:   &pipepb.ApiServiceDescriptor{Url: w.Logging},
		ArtifactEndpoint:  &pipepb.ApiServiceDescriptor{Url: w.Artifact},
		ProvisionEndpoint: &pipepb.ApiServiceDescriptor{Url: w.Provision},
		Params:            e.params,
	}, grpc.WaitForReady(true))
	switch {
	case err != nil && ctx.Err() == nil && dialing.Err() != nil:
		return nil, fmt.Errorf("it could not be reached within %s", e.dialTimeout)
	case err != nil:
		return nil, err
	case response.GetError() != "":
		return nil, errors.New("it refused: " + response.GetError())
	}
	return &foreign{external: e, id: w.ID}, nil
}

// foreign is a worker whose process is not ours.
type foreign struct {
	external *external
	id       string
}

func (*foreign) exited() <-chan struct{} { return nil }
func (*foreign) obituary() string        { return "" }

// stop tells the worker pool, which may be gone: a client that has its result
// doesn't wait for us.
func (w *foreign) stop(bool) {
	conn, err := w.external.dial()
	if err != nil {
		return
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), w.external.stopTimeout)
	defer cancel()
	_, _ = fnpb.NewBeamFnExternalWorkerPoolClient(conn).StopWorker(ctx, &fnpb.StopWorkerRequest{WorkerId: w.id})
}
