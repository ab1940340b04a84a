package runner

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"trestle/raftmeta/catalog"
	"trestle/runner/jobgraph"
	"trestle/runner/schedule"

	"golang.org/x/sync/errgroup"
)

// Sources finds out what bounded sources hold.
type Sources interface {
	// Bind finds the exact bounds of a stage's source. It tries again what may
	// pass, and gives up in bounded time; its error is for the job's author and
	// ends the job. It may be called for several stages at once.
	Bind(ctx context.Context, job, plan string, stage jobgraph.StageID) (Bounds, error)
}

// Bounds are what a source is to be read from and to.
type Bounds struct {
	Value []byte   // for who reads: not empty, at most maxBoundsBytes, no secrets
	Notes []string // for the job's author
}

const (
	// maxBoundsBytes bounds what a record, and the start of a task, carries.
	maxBoundsBytes = 4 << 20
	maxNotes       = 100
	// bindTogether is how many sources are asked at a time.
	bindTogether = 8
)

// A binder has sources bound. One goroutine, the committer's, uses it; those
// that it starts belong to the Dispatcher's group.
type binder struct {
	d     *Dispatcher
	group *errgroup.Group
	turns chan struct{}                        // holds a token for each source that is being asked
	stops map[catalog.JobID]context.CancelFunc // of jobs that are not released
	jobs  map[catalog.JobID]context.Context    // the same jobs'
}

func newBinder(d *Dispatcher, group *errgroup.Group) *binder {
	return &binder{
		d: d, group: group, turns: make(chan struct{}, bindTogether),
		stops: map[catalog.JobID]context.CancelFunc{}, jobs: map[catalog.JobID]context.Context{},
	}
}

// bind begins to ask. What comes of it is told to the loop.
func (b *binder) bind(ctx context.Context, a schedule.Bind) {
	of := b.jobs[a.Job]
	if of == nil {
		of, b.stops[a.Job] = context.WithCancel(ctx)
		b.jobs[a.Job] = of
	}
	b.group.Go(func() error {
		select {
		case b.turns <- struct{}{}:
		case <-of.Done():
			return nil
		}
		in := b.d.bound(of, a)
		<-b.turns
		select {
		case b.d.inbox <- in:
		case <-of.Done(): // nobody wants to know any more
		}
		return nil
	})
}

// forget stops asking for a job that is over.
func (b *binder) forget(job catalog.JobID) {
	if stop := b.stops[job]; stop != nil {
		stop()
		delete(b.stops, job)
		delete(b.jobs, job)
	}
}

// bound is a stage's source that was asked.
type bound struct {
	a      schedule.Bind
	bounds Bounds
	err    error
	at     time.Time
}

func (d *Dispatcher) bound(ctx context.Context, a schedule.Bind) bound {
	b := bound{a: a}
	if d.sources == nil {
		b.err = errors.New("this JobManager knows no bounded sources")
	} else {
		b.bounds, b.err = d.sources.Bind(ctx, string(a.Job), string(a.Plan), a.Stage)
	}
	if n := len(b.bounds.Value); b.err == nil && (n == 0 || n > maxBoundsBytes) {
		b.err = fmt.Errorf("stage %s: what it is to read takes %d bytes to say, and may take 1 to %d; read less at a time, such as fewer topics", a.Stage, n, maxBoundsBytes)
	}
	b.at = time.Now()
	return b
}

func (b bound) tell(_ context.Context, l *loop) {
	if b.err != nil {
		l.seen.Unbound(b.a.Job, b.a.Stage, catalog.Failure{
			Kind: catalog.FailureSource, At: catalog.At(b.at), Message: clipMessage(b.err.Error()),
		})
		return
	}
	notes := b.bounds.Notes
	if more := len(notes) - maxNotes; more > 0 {
		notes = append(notes[:maxNotes:maxNotes], fmt.Sprintf("and %d more like these", more))
	}
	r := &catalog.InputBound{Job: b.a.Job, Stage: b.a.Stage, At: catalog.At(b.at), Bounds: b.bounds.Value}
	for _, n := range notes {
		r.Notes = append(r.Notes, clipMessage(n))
	}
	l.seen.Bound(r)
}

// clipMessage makes a message one that the journal takes and gives back as it
// is.
func clipMessage(s string) string {
	if len(s) > maxMessageBytes {
		s = s[:maxMessageBytes/2] + "\n[…]\n" + s[len(s)-maxMessageBytes/2:]
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}
