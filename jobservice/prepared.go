package jobservice

import (
	"crypto/rand"
	"fmt"
	"strings"
	"sync"
	"time"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

// A preparation's id is its job's id with this before it (and, where there are
// several, the name of the process that holds it behind: see holders.go). They
// differ because
// Python's client asks for the streams of the preparation id before Run, with
// a deadline, and would keep those streams if it got them; answered NotFound,
// it asks again after Run for the job's, without a deadline.
const preparationPrefix = "prepared-"

// A preparedJob waits for its artifacts and for Run.
type preparedJob struct {
	jobID      string
	submission *Submission
	bytes      int64
	staging    chan struct{} // capacity 1: held by the one stream that stages, or by Run

	// Guarded by the table's mutex:
	touched   time.Time
	busy      int                                      // calls under way; never expires meanwhile
	submitted bool                                     // it may be a job by now
	staged    map[string][]*pipepb.ArtifactInformation // by environment, once staged
	failure   error                                    // why the last staging failed
}

// A preparedTable holds the jobs between Prepare and Run.
type preparedTable struct {
	maxBytes int64

	mu    sync.Mutex
	jobs  map[string]*preparedJob // by job id
	bytes int64                   // of all pipelines; <= maxBytes
}

func newPreparedTable(maxBytes int64) *preparedTable {
	return &preparedTable{maxBytes: maxBytes, jobs: make(map[string]*preparedJob)}
}

func (t *preparedTable) add(p *preparedJob) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.bytes+p.bytes > t.maxBytes {
		return fmt.Errorf("the pipelines that are prepared and not yet run take %d of %d bytes; run them or wait until they expire", t.bytes, t.maxBytes)
	}
	t.jobs[p.jobID] = p
	t.bytes += p.bytes
	return nil
}

// use returns a prepared job and keeps it from expiring until done is called.
func (t *preparedTable) use(preparationID string, now func() time.Time) (p *preparedJob, done func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p = t.jobs[jobID(preparationID)]
	if p == nil {
		return nil, func() {}
	}
	p.busy++
	return p, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		p.busy--
		p.touched = now()
	}
}

// ended notes how a staging stream ended.
func (t *preparedTable) ended(p *preparedJob, staged map[string][]*pipepb.ArtifactInformation, failure error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if failure == nil {
		p.staged = staged
	}
	p.failure = failure
}

func (t *preparedTable) outcome(p *preparedJob) (staged map[string][]*pipepb.ArtifactInformation, failure error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return p.staged, p.failure
}

// submitting notes that Run is about to hand the job to the house.
func (t *preparedTable) submitting(p *preparedJob) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p.submitted = true
}

// waits reports whether the job is prepared and surely no more than that.
func (t *preparedTable) waits(p *preparedJob) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return !p.submitted
}

func (t *preparedTable) remove(p *preparedJob) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.drop(p)
}

func (t *preparedTable) drop(p *preparedJob) {
	if t.jobs[p.jobID] == p {
		delete(t.jobs, p.jobID)
		t.bytes -= p.bytes
	}
}

// expire removes and returns the jobs that nobody has touched since.
func (t *preparedTable) expire(since time.Time) []*preparedJob {
	t.mu.Lock()
	defer t.mu.Unlock()
	var gone []*preparedJob
	for _, p := range t.jobs {
		if p.busy == 0 && p.touched.Before(since) {
			gone = append(gone, p)
		}
	}
	for _, p := range gone {
		t.drop(p)
	}
	return gone
}

// newJobID makes an id from the job's name, so that people can tell jobs
// apart, and 40 random bits, so that it is unique.
func newJobID(name string) string {
	var b strings.Builder
	for _, c := range strings.ToLower(name) {
		switch {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
			b.WriteRune(c)
		case b.Len() > 0 && !strings.HasSuffix(b.String(), "-"):
			b.WriteByte('-')
		}
		if b.Len() >= 40 {
			break
		}
	}
	base := strings.Trim(b.String(), "-")
	if base == "" {
		base = "job"
	}
	return base + "-" + strings.ToLower(rand.Text()[:8])
}
