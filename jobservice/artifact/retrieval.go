package artifact

import (
	"context"
	"errors"
	"io"
	"sync"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// chunkBytes stays well below the 4 MiB that SDKs receive by default.
const chunkBytes = 1 << 20

var chunks = sync.Pool{New: func() any { b := make([]byte, chunkBytes); return &b }}

// A RetrievalServer gives kept files to workers and clients, as Staged
// describes them.
type RetrievalServer struct {
	jobpb.UnimplementedArtifactRetrievalServiceServer
	Store *Store
}

// ResolveArtifacts answers that everything can be fetched as it is.
func (s *RetrievalServer) ResolveArtifacts(_ context.Context, req *jobpb.ResolveArtifactsRequest) (*jobpb.ResolveArtifactsResponse, error) {
	return &jobpb.ResolveArtifactsResponse{Replacements: req.GetArtifacts()}, nil
}

// GetArtifact streams a file.
func (s *RetrievalServer) GetArtifact(req *jobpb.GetArtifactRequest, stream jobpb.ArtifactRetrievalService_GetArtifactServer) error {
	r, err := s.Store.OpenArtifact(req.GetArtifact())
	if errors.Is(err, ErrNotFound) {
		return status.Errorf(codes.NotFound, "artifact %s is not kept here; the job that brought it has ended", Label(req.GetArtifact()))
	}
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	defer r.Close()
	buf := chunks.Get().(*[]byte)
	defer chunks.Put(buf)
	for {
		n, err := r.Read(*buf)
		if n > 0 {
			if err := stream.Send(&jobpb.GetArtifactResponse{Data: (*buf)[:n]}); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return status.Error(codes.DataLoss, err.Error())
		}
	}
}

// OpenArtifact returns the content of a staged artifact.
func (s *Store) OpenArtifact(a *pipepb.ArtifactInformation) (io.ReadCloser, error) {
	name, err := NameOf(a)
	if err != nil {
		return nil, err
	}
	return s.Open(name)
}

// NameOf is the name under which a staged artifact is kept: its SHA-256.
func NameOf(a *pipepb.ArtifactInformation) (string, error) {
	if a.GetTypeUrn() != TypeFile {
		return "", errors.New("artifact " + Label(a) + " was not staged")
	}
	var file pipepb.ArtifactFilePayload
	if err := proto.Unmarshal(a.GetTypePayload(), &file); err != nil {
		return "", errors.New("artifact " + Label(a) + ": its payload can't be read")
	}
	if file.GetSha256() != "" {
		return file.GetSha256(), nil
	}
	return file.GetPath(), nil
}
