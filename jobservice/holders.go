package jobservice

import (
	"context"
	"errors"
	"io"
	"strings"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// holderMark stands in a preparation's id before the name of the process that
// holds it. A job's id has none.
const holderMark = "@"

func (s *Service) preparationID(job string) string {
	if s.opts.Name == "" {
		return preparationPrefix + job
	}
	return preparationPrefix + job + holderMark + s.opts.Name
}

// jobID is a job's own id, of that or of its preparation's.
func jobID(id string) string {
	id, _, _ = strings.Cut(strings.TrimPrefix(id, preparationPrefix), holderMark)
	return id
}

// A holder is another process that holds a preparation.
type holder struct {
	name string
	conn grpc.ClientConnInterface
}

// holderOf leads to the holder of a preparation by its id: nil if that is this
// process, or nobody. held tells that a process has sent us the call on which
// takes us for the holder; if there is a mistake, it ends here.
func (s *Service) holderOf(id string, held bool) (*holder, error) {
	preparation, is := strings.CutPrefix(id, preparationPrefix)
	_, name, named := strings.Cut(preparation, holderMark)
	if !is || !named || name == s.opts.Name || held || s.opts.Holder == nil {
		return nil, nil
	}
	h := &holder{name: name}
	conn, err := s.opts.Holder(name)
	if err != nil {
		return nil, h.away(err)
	}
	h.conn = conn
	return h, nil
}

// away is the error for a client whose preparation can't be come by.
func (h *holder) away(err error) error {
	reason := err.Error()
	if s, ok := status.FromError(err); ok {
		reason = s.Message()
	}
	return status.Errorf(codes.Unavailable, "the job was prepared at JobManager %.80q, which can't be asked now (%s); prepare the job again if that lasts", h.name, reason)
}

// said is the holder's own error, or that it is away.
func (h *holder) said(err error) error {
	if status.Code(err) == codes.Unavailable {
		return h.away(err)
	}
	return err
}

// runElsewhere runs a job that is not prepared here: its holder does, or it runs
// already. Then the client has lost our answer, or its holder's.
func (s *jobServer) runElsewhere(ctx context.Context, req *jobpb.RunJobRequest) (*jobpb.RunJobResponse, error) {
	id := jobID(req.GetPreparationId())
	h, away := s.holderOf(req.GetPreparationId(), s.held)
	if h != nil {
		out, err := jobpb.NewJobServiceClient(h.conn).Run(ctx, req)
		if status.Code(err) != codes.Unavailable {
			return out, err
		}
		away = h.away(err)
	}
	_, err := s.jobs.Job(ctx, id)
	switch {
	case err == nil:
		return &jobpb.RunJobResponse{JobId: id}, nil
	case errors.Is(err, ErrNotFound) && away != nil:
		return nil, away
	case errors.Is(err, ErrNotFound):
		return nil, status.Errorf(codes.NotFound, "no prepared job %.200q: it was never prepared, or expired after %s, or its JobManager was started anew; prepare it again", id, s.opts.PreparedTTL)
	}
	return nil, asStatus(id, err)
}

// askHolder has the holder of a preparation answer; notFound is what to say if
// there is none.
func askHolder[T any](s *jobServer, id string, notFound error, ask func(jobpb.JobServiceClient) (*T, error)) (*T, error) {
	h, err := s.holderOf(id, s.held)
	switch {
	case err != nil:
		return nil, err
	case h == nil:
		return nil, notFound
	}
	out, err := ask(jobpb.NewJobServiceClient(h.conn))
	return out, h.said(err)
}

// stageElsewhere stands between a client and the holder of its preparation. The
// two speak in turn, so one message at a time is under way here, and a slow
// holder holds its client up.
func (s *stagingServer) stageElsewhere(stream jobpb.ArtifactStagingService_ReverseArtifactRetrievalServiceServer, first *jobpb.ArtifactResponseWrapper) error {
	h, err := s.holderOf(first.GetStagingToken(), s.held)
	switch {
	case err != nil:
		return err
	case h == nil:
		return status.Errorf(codes.NotFound, "no prepared job for staging token %.200q", first.GetStagingToken())
	}
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	there, err := jobpb.NewArtifactStagingServiceClient(h.conn).ReverseArtifactRetrievalService(ctx)
	if err != nil {
		return h.said(err)
	}
	if err := there.Send(first); err != nil && err != io.EOF { // then Recv knows why
		return h.said(err)
	}
	for {
		request, err := there.Recv()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return h.said(err)
		}
		if err := stream.Send(request); err != nil {
			return err
		}
		if err := carry(there, stream, request); err != nil {
			return err
		}
	}
}

// carry brings the client's answer to one request to the holder. What is wrong
// with it the holder says.
func carry(to jobpb.ArtifactStagingService_ReverseArtifactRetrievalServiceClient, from jobpb.ArtifactStagingService_ReverseArtifactRetrievalServiceServer, request *jobpb.ArtifactRequestWrapper) error {
	for {
		m, err := from.Recv()
		if err == io.EOF {
			return to.CloseSend()
		}
		if err != nil {
			return err
		}
		if to.Send(m) != nil {
			return nil // Recv knows why
		}
		if request.GetGetArtifact() == nil || m.GetResolveArtifactResponse() != nil || m.GetIsLast() {
			return nil
		}
	}
}

// putElsewhere asks the holder why staging failed.
func (s *legacyStagingServer) putElsewhere(ctx context.Context, first *jobpb.PutArtifactRequest) error {
	h, err := s.holderOf(first.GetMetadata().GetStagingSessionToken(), s.held)
	switch {
	case err != nil:
		return err
	case h == nil:
		return errLegacy
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	there, err := jobpb.NewLegacyArtifactStagingServiceClient(h.conn).PutArtifact(ctx)
	if err != nil {
		return h.said(err)
	}
	_ = there.Send(first) // what comes of it is said by the answer
	_, err = there.CloseAndRecv()
	return h.said(err)
}
