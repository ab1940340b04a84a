package fnapi

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"slices"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

type provisionService struct {
	fnpb.UnimplementedProvisionServiceServer
	server *Server
}

// GetProvisionInfo tells a booting worker what it was admitted with.
func (p *provisionService) GetProvisionInfo(ctx context.Context, _ *fnpb.GetProvisionInfoRequest) (*fnpb.GetProvisionInfoResponse, error) {
	w, err := p.server.caller(ctx)
	if err != nil {
		return nil, err
	}
	return &fnpb.GetProvisionInfoResponse{Info: w.provisionInfo()}, nil
}

func (w *Worker) provisionInfo() *fnpb.ProvisionInfo {
	here := &pipepb.ApiServiceDescriptor{Url: w.URL()}
	info := &fnpb.ProvisionInfo{
		PipelineOptions:    w.admission.Options,
		RetrievalToken:     w.admission.RetrievalToken,
		ControlEndpoint:    here,
		LoggingEndpoint:    here,
		ArtifactEndpoint:   here,
		Dependencies:       w.admission.Dependencies,
		RunnerCapabilities: w.Capabilities(),
		Metadata:           w.admission.Metadata,
	}
	if w.admission.Status {
		info.StatusEndpoint = here
	}
	return info
}

// Capabilities is what the worker is told that the runner can do, for workers
// that are told otherwise than by the provision service.
func (w *Worker) Capabilities() []string {
	return slices.Concat(serverCapabilities, w.admission.Capabilities)
}

// An ArtifactSource serves one worker's files.
type ArtifactSource interface {
	// Open opens the file that a, as the worker names it, stands for. Only what
	// the worker was admitted with may be opened: a comes from outside. An error
	// that wraps fs.ErrNotExist says that there is no such file.
	Open(ctx context.Context, a *pipepb.ArtifactInformation) (io.ReadCloser, error)
}

type artifactService struct {
	jobpb.UnimplementedArtifactRetrievalServiceServer
	server *Server
}

// ResolveArtifacts gives the artifacts back as they are: what a worker was
// admitted with is resolved already.
func (s *artifactService) ResolveArtifacts(ctx context.Context, req *jobpb.ResolveArtifactsRequest) (*jobpb.ResolveArtifactsResponse, error) {
	if _, err := s.server.caller(ctx); err != nil {
		return nil, err
	}
	return &jobpb.ResolveArtifactsResponse{Replacements: req.GetArtifacts()}, nil
}

// artifactChunk stays far below the 4 MiB that clients accept by default.
const artifactChunk = 256 << 10

// GetArtifact sends one file in chunks. An empty file is a stream without any.
func (s *artifactService) GetArtifact(req *jobpb.GetArtifactRequest, stream jobpb.ArtifactRetrievalService_GetArtifactServer) error {
	w, err := s.server.caller(stream.Context())
	if err != nil {
		return err
	}
	if w.admission.Artifacts == nil {
		return status.Error(codes.NotFound, "this worker has no artifacts")
	}
	f, err := w.admission.Artifacts.Open(stream.Context(), req.GetArtifact())
	if err != nil {
		return artifactError(err)
	}
	defer f.Close()
	buf := make([]byte, artifactChunk)
	for {
		n, err := io.ReadFull(f, buf)
		if n > 0 {
			// Send keeps nothing: messages are encoded before it returns.
			if err := stream.Send(&jobpb.GetArtifactResponse{Data: buf[:n]}); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if err != nil {
			return artifactError(err)
		}
	}
}

func artifactError(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return status.Error(codes.NotFound, err.Error())
	}
	return status.Error(codes.Internal, err.Error())
}
