package jobservice

import (
	"errors"
	"fmt"
	"io"

	"trestle/jobservice/artifact"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// maxArtifacts bounds the artifacts of one environment.
const maxArtifacts = 100_000

// stagingServer is Beam's ArtifactStagingService: we ask, the client answers.
type stagingServer struct {
	jobpb.UnimplementedArtifactStagingServiceServer
	*Service
	held bool // as in jobServer
}

// ReverseArtifactRetrievalService fetches a prepared job's artifacts from its
// client, one after another.
func (s *stagingServer) ReverseArtifactRetrievalService(stream jobpb.ArtifactStagingService_ReverseArtifactRetrievalServiceServer) error {
	// Now, and not only with a first message: TypeScript's client waits for headers
	// for ever, and of a job without artifacts there is no message.
	if err := stream.SendHeader(nil); err != nil {
		return err
	}
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	p, done := s.prepared.use(first.GetStagingToken(), s.opts.Now)
	defer done()
	if p == nil {
		return s.stageElsewhere(stream, first)
	}
	select { // one stream at a time: a client that tries again waits for its first try's end
	case p.staging <- struct{}{}:
		defer func() { <-p.staging }()
	case <-stream.Context().Done():
		return status.FromContextError(stream.Context().Err()).Err()
	}
	st := &stagingStream{stream: stream, store: s.artifacts, job: p.jobID, known: make(map[string]string)}
	staged, err := st.environments(p.submission.Pipeline)
	s.prepared.ended(p, staged, err)
	if err != nil {
		return stagingStatus(p.submission.Name, err)
	}
	return nil
}

func stagingStatus(name string, err error) error {
	code := codes.InvalidArgument
	var hash *artifact.HashError
	switch {
	case errors.As(err, &hash):
		code = codes.DataLoss
	case errors.Is(err, artifact.ErrTooLarge):
		code = codes.ResourceExhausted
	case status.Code(err) == codes.Canceled:
		code = codes.Canceled
	}
	return status.Error(code, describe("stage artifacts of", name, err))
}

// A stagingStream is one client that hands over a job's artifacts.
type stagingStream struct {
	stream jobpb.ArtifactStagingService_ReverseArtifactRetrievalServiceServer
	store  *artifact.Store
	job    string
	known  map[string]string // fetched already: type and payload → name
}

func (st *stagingStream) environments(p *pipepb.Pipeline) (map[string][]*pipepb.ArtifactInformation, error) {
	staged := make(map[string][]*pipepb.ArtifactInformation)
	for _, id := range environmentIDs(p) {
		deps := p.GetComponents().GetEnvironments()[id].GetDependencies()
		if len(deps) == 0 {
			continue
		}
		deps, err := st.resolve(deps)
		if err != nil {
			return nil, fmt.Errorf("environment %q: %w", id, err)
		}
		for _, dep := range deps {
			kept, err := st.fetch(dep)
			if err != nil {
				return nil, fmt.Errorf("environment %q: artifact %s: %w", id, artifact.Label(dep), err)
			}
			staged[id] = append(staged[id], kept)
		}
	}
	return staged, nil
}

// resolve lets the client replace what it can't send by what it can.
func (st *stagingStream) resolve(deps []*pipepb.ArtifactInformation) ([]*pipepb.ArtifactInformation, error) {
	err := st.stream.Send(&jobpb.ArtifactRequestWrapper{Request: &jobpb.ArtifactRequestWrapper_ResolveArtifact{
		ResolveArtifact: &jobpb.ResolveArtifactsRequest{Artifacts: deps, PreferredUrns: []string{artifact.TypeFile}},
	}})
	if err != nil {
		return nil, err
	}
	in, err := st.stream.Recv()
	if err != nil {
		return nil, endedEarly(err)
	}
	answer := in.GetResolveArtifactResponse()
	if answer == nil {
		return nil, errors.New("the client did not answer ResolveArtifacts")
	}
	if len(answer.GetReplacements()) > maxArtifacts {
		return nil, fmt.Errorf("%d artifacts; %d are allowed", len(answer.GetReplacements()), maxArtifacts)
	}
	for _, a := range answer.GetReplacements() {
		if err := artifact.Check(a); err != nil {
			return nil, err
		}
	}
	return answer.GetReplacements(), nil
}

// fetch brings one artifact into the store. The content comes from the client
// in every case: we neither open the paths nor fetch the URLs that it names.
func (st *stagingStream) fetch(a *pipepb.ArtifactInformation) (*pipepb.ArtifactInformation, error) {
	key := a.GetTypeUrn() + "\x00" + string(a.GetTypePayload())
	if a.GetTypeUrn() == artifact.TypeEmbedded {
		key = "" // its content is its payload: too large for a key
	}
	if name, ok := st.known[key]; ok && key != "" {
		return artifact.Staged(name, a)
	}
	promised, embedded, err := payload(a)
	if err != nil {
		return nil, err
	}
	in, err := st.store.Receive(st.job)
	if err != nil {
		return nil, err
	}
	defer in.Abort()
	if a.GetTypeUrn() == artifact.TypeEmbedded {
		_, err = in.Write(embedded)
	} else {
		err = st.receive(a, in)
	}
	if err != nil {
		return nil, err
	}
	name, err := in.Commit(promised)
	if err != nil {
		return nil, err
	}
	if key != "" {
		st.known[key] = name
	}
	return artifact.Staged(name, a)
}

// payload tells the SHA-256 that an artifact promises, if it does, and the
// content of an embedded one.
func payload(a *pipepb.ArtifactInformation) (promised string, embedded []byte, err error) {
	switch a.GetTypeUrn() {
	case artifact.TypeFile:
		var p pipepb.ArtifactFilePayload
		err = proto.Unmarshal(a.GetTypePayload(), &p)
		promised = p.GetSha256()
	case artifact.TypeURL:
		var p pipepb.ArtifactUrlPayload
		err = proto.Unmarshal(a.GetTypePayload(), &p)
		promised = p.GetSha256()
	case artifact.TypeEmbedded:
		var p pipepb.EmbeddedFilePayload
		err = proto.Unmarshal(a.GetTypePayload(), &p)
		embedded = p.GetData()
	case artifact.TypeDeferred:
		err = errors.New("the client left it deferred; it must resolve it to a file")
	}
	return promised, embedded, err
}

// receive asks the client for an artifact's content and writes it to w.
func (st *stagingStream) receive(a *pipepb.ArtifactInformation, w io.Writer) error {
	err := st.stream.Send(&jobpb.ArtifactRequestWrapper{Request: &jobpb.ArtifactRequestWrapper_GetArtifact{
		GetArtifact: &jobpb.GetArtifactRequest{Artifact: a},
	}})
	if err != nil {
		return err
	}
	for {
		in, err := st.stream.Recv()
		if err != nil {
			return endedEarly(err)
		}
		if in.GetResolveArtifactResponse() != nil {
			return errors.New("the client answered ResolveArtifacts where its content was asked for")
		}
		if _, err := w.Write(in.GetGetArtifactResponse().GetData()); err != nil {
			return err
		}
		if in.GetIsLast() {
			return nil
		}
	}
}

func endedEarly(err error) error {
	if err == io.EOF {
		return errors.New("the client ended the stream before it had sent everything")
	}
	return err
}

// legacyStagingServer tells Go's client, which falls back to the protocol
// before this one when staging fails, why it failed.
type legacyStagingServer struct {
	jobpb.UnimplementedLegacyArtifactStagingServiceServer
	*Service
	held bool // as in jobServer
}

var errLegacy = status.Error(codes.Unimplemented, "the legacy artifact staging protocol is not supported; use ArtifactStagingService")

// PutArtifact refuses, with the reason for which the client came here.
func (s *legacyStagingServer) PutArtifact(stream jobpb.LegacyArtifactStagingService_PutArtifactServer) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	p, done := s.prepared.use(first.GetMetadata().GetStagingSessionToken(), s.opts.Now)
	defer done()
	if p == nil {
		return s.putElsewhere(stream.Context(), first)
	}
	if _, failure := s.prepared.outcome(p); failure != nil {
		return stagingStatus(p.submission.Name, failure)
	}
	return errLegacy
}
