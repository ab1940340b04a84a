package node

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"

	"trestle/jobservice"
	"trestle/runner/fusion"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"
)

// A storedJob is all that is needed to run a job and must not be made again:
// the blob that a job's record names as its plan. Its options hold the user's
// secrets, because workers need them; the blob store is readable by its owner
// alone.
type storedJob struct {
	// ID is the job's. It makes the blob the job's alone: it can go with the
	// job's end, whoever submits an equal one.
	ID      string
	Name    string
	Plan    *fusion.Plan
	Options *structpb.Struct
	// Artifacts are the names of the files that the client staged, for members
	// of the group that have the blob and not yet those.
	Artifacts []string

	settings func() jobservice.Settings // what of Options is meant for the runner; read once
	secrets  func() *strings.Replacer   // hides the secrets of Options; nil if there are none
}

func newStoredJob(name string, plan *fusion.Plan, options *structpb.Struct) *storedJob {
	return &storedJob{Name: name, Plan: plan, Options: options,
		settings: sync.OnceValue(func() jobservice.Settings {
			// Options that were accepted once and can't be read any more are those
			// of a later or an earlier Trestle: what can be read counts.
			s, _ := jobservice.ParseSettings(options)
			return s
		}),
		secrets: sync.OnceValue(func() *strings.Replacer {
			var pairs []string
			for _, s := range jobservice.Secrets(options) {
				pairs = append(pairs, s, jobservice.Redacted)
			}
			if pairs == nil {
				return nil
			}
			return strings.NewReplacer(pairs...)
		}),
	}
}

type storedJobJSON struct {
	ID        string          `json:"id,omitempty"`
	Name      string          `json:"name"`
	Plan      *fusion.Plan    `json:"plan"`
	Options   json.RawMessage `json:"options,omitempty"`
	Artifacts []string        `json:"artifacts,omitempty"`
}

// artifactsOf reads no more of a stored job than the names of its artifacts.
func artifactsOf(b []byte) ([]string, error) {
	var j struct {
		Artifacts []string `json:"artifacts"`
	}
	if err := json.Unmarshal(b, &j); err != nil {
		return nil, fmt.Errorf("decode stored job: %w", err)
	}
	return j.Artifacts, nil
}

func (s *storedJob) marshal() ([]byte, error) {
	j := storedJobJSON{ID: s.ID, Name: s.Name, Plan: s.Plan, Artifacts: s.Artifacts}
	if s.Options != nil {
		b, err := protojson.Marshal(s.Options)
		if err != nil {
			return nil, fmt.Errorf("encode options: %w", err)
		}
		j.Options = b
	}
	return json.Marshal(j)
}

func unmarshalStoredJob(b []byte) (*storedJob, error) {
	var j storedJobJSON
	if err := json.Unmarshal(b, &j); err != nil {
		return nil, fmt.Errorf("decode stored job: %w", err)
	}
	options := &structpb.Struct{}
	if len(j.Options) > 0 {
		if err := protojson.Unmarshal(j.Options, options); err != nil {
			return nil, fmt.Errorf("decode stored options: %w", err)
		}
	}
	s := newStoredJob(j.Name, j.Plan, options)
	s.ID, s.Artifacts = j.ID, j.Artifacts
	return s, nil
}

// stored keeps the jobs that this process runs at hand.
type stored struct {
	open func(ctx context.Context, hash string) ([]byte, error)
	// drop forgets what open has fetched for a job that runs no more; may be nil.
	drop func(hash string)

	mu     sync.Mutex
	jobs   map[string]*storedJob // by job id
	hashes map[string]string     // of what was opened, by job id
}

func newStored(open func(ctx context.Context, hash string) ([]byte, error)) *stored {
	return &stored{open: open, jobs: map[string]*storedJob{}, hashes: map[string]string{}}
}

// Plan is task.Plans.
func (s *stored) Plan(ctx context.Context, job, hash string) (*fusion.Plan, error) {
	j, err := s.load(ctx, job, hash)
	if err != nil {
		return nil, err
	}
	return j.Plan, nil
}

// BundleElements is task.Plans.
func (s *stored) BundleElements(job string) int {
	s.mu.Lock()
	j := s.jobs[job]
	s.mu.Unlock()
	if j == nil {
		return 0
	}
	return j.settings().BundleElements
}

// BundleTime is task.Plans.
func (s *stored) BundleTime(job string) time.Duration {
	s.mu.Lock()
	j := s.jobs[job]
	s.mu.Unlock()
	if j == nil {
		return 0
	}
	return time.Duration(j.settings().BundleMillis) * time.Millisecond
}

// load reads a job's blob, unless it is at hand.
func (s *stored) load(ctx context.Context, job, hash string) (*storedJob, error) {
	s.mu.Lock()
	j := s.jobs[job]
	s.mu.Unlock()
	if j != nil {
		return j, nil
	}
	b, err := s.open(ctx, hash)
	if err != nil {
		return nil, err
	}
	if j, err = unmarshalStoredJob(b); err != nil {
		return nil, err
	}
	s.keep(job, j)
	s.mu.Lock()
	s.hashes[job] = hash
	s.mu.Unlock()
	return j, nil
}

// keep has a job at hand that was just planned here.
func (s *stored) keep(job string, j *storedJob) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.jobs[job] = j
}

// forget drops a job that runs no more.
func (s *stored) forget(job string) {
	s.mu.Lock()
	hash, opened := s.hashes[job]
	delete(s.jobs, job)
	delete(s.hashes, job)
	s.mu.Unlock()
	if opened && s.drop != nil {
		s.drop(hash)
	}
}

// environment returns one environment of a job at hand.
func (s *stored) environment(job, id string) (*storedJob, *pipepb.Environment, error) {
	s.mu.Lock()
	j := s.jobs[job]
	s.mu.Unlock()
	if j == nil {
		return nil, nil, fmt.Errorf("job %s is not at hand", job)
	}
	env := j.Plan.Components.GetEnvironments()[id]
	if env == nil {
		return nil, nil, fmt.Errorf("job %s has no environment %q", job, id)
	}
	return j, env, nil
}

// inClient reports whether the workers of an environment may live in the
// client's own process. Of a job that is not at hand any more it is not known.
func (s *stored) inClient(job, id string) bool {
	_, env, err := s.environment(job, id)
	return err != nil || env.GetUrn() == "beam:env:external:v1"
}

// hide takes the job's secrets out of what its workers say: SDKs log the options
// that they were started with.
func (s *stored) hide(job, text string) string {
	s.mu.Lock()
	j := s.jobs[job]
	s.mu.Unlock()
	if j == nil {
		return text
	}
	if r := j.secrets(); r != nil {
		return r.Replace(text)
	}
	return text
}

// transformName is what the author calls a transform of a job's plan.
func (s *stored) transformName(job, id string) string {
	s.mu.Lock()
	j := s.jobs[job]
	s.mu.Unlock()
	if j != nil {
		if t := j.Plan.Components.GetTransforms()[id]; t != nil {
			return t.GetUniqueName()
		}
	}
	return id
}
