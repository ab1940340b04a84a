// Package harness boots, pools and watches the SDK harness workers of one
// TaskManager.
//
// A worker runs the user's code for one environment of one job. Where it lives
// is the environment's business: in the client's own process (LOOPBACK), behind
// a worker pool (EXTERNAL), as a process of ours (PROCESS, and DOCKER where no
// container engine is at hand), or in a container. Package harness hides the
// difference: Acquire gives a connected worker and a lane on it, whatever that
// took.
//
// A worker belongs to one job from its start to the job's end. It is started
// when the job is (Warm), never when its first bundle is already waiting, and a
// lost one is replaced within bounds, so that user code that kills its process
// makes the job slow at first and an error in the end. What a worker wrote
// before it died is in that error.
//
// No process that was started here outlives us, however we end: see package
// child.
//
// What travels between worker and runner is package fnapi's; the pool sees of
// it only the interface Endpoints.
package harness

import (
	"context"
	"io"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/types/known/structpb"
)

// Endpoints is the Fn API server as the pool needs it.
type Endpoints interface {
	// Admit lets one worker connect. Its id is random and for a single use: a
	// second connection under it is refused. The id begins with the admission's
	// name, and holds nothing but letters, digits, "-" and "_".
	Admit(a Admission) (Worker, error)
	// Addresses tells where workers connect.
	Addresses() Addresses
}

// Addresses are HOST:PORT each. Status may be empty.
type Addresses struct {
	Control, Logging, Artifact, Provision, Status string
	// Capabilities of the runner that a worker may use, as told by provisioning.
	Capabilities []string
}

// An Admission is what the Fn API server must know of a worker to come, to
// answer its provision request among other things.
type Admission struct {
	Name          string // the beginning of the worker's id, for people
	Job           string
	EnvironmentID string
	Lanes         int
	Status        bool // it is asked to be ready to tell its status
	Options       *structpb.Struct
	Dependencies  []*pipepb.ArtifactInformation
	Metadata      map[string]string // job_id, job_name
}

// A Worker is one admitted SDK harness.
type Worker interface {
	ID() string
	// Ready returns nil once the worker's control stream is there.
	Ready(ctx context.Context) error
	// Lost is closed when the control stream has ended; Err says why.
	Lost() <-chan struct{}
	Err() error
	// Close ends the control stream politely and withdraws the admission. It
	// may be called more than once.
	Close()
}

// Artifacts finds what a job has staged.
type Artifacts interface {
	// Open reads the bytes of an artifact of the job.
	Open(ctx context.Context, job string, a *pipepb.ArtifactInformation) (io.ReadCloser, error)
}

// A Request names the worker wanted. Requests of one job and environment share
// workers; only the first one's other fields count, but for Had.
type Request struct {
	Job           string
	JobName       string
	EnvironmentID string
	Environment   *pipepb.Environment
	Options       *structpb.Struct // the pipeline's options, as submitted
	// Workers bounds the workers of this environment; 0 for as many as are
	// useful: one where the SDK runs several bundles at once on all cores, else
	// one for each core. LOOPBACK has one, whatever is asked, unless its workers
	// are processes of their own.
	Workers int
	// Lanes is how many bundles one worker may have at a time; 0 for the
	// default. A second lane of a worker that uses one core only is given out
	// when all workers are busy, never before.
	Lanes int
	// Had is the ID of the worker that whoever asks would rather have than others
	// that are no busier: it may have cached what it read. "" for none.
	Had string
}
