package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"trestle/internal/cluster"
	"trestle/runner/joblog"
)

// Lines carries what workers log from a TaskManager to every JobManager, so
// that each can show a job's messages whichever leads.
//
// Batches are numbered. Each JobManager says which it has, and gets those that
// follow, also after the connection broke or it was away. They wait in memory,
// within a bound: of a JobManager that is away for too long, the oldest are
// lost.
type Lines struct {
	source string
	max    int
	lost   atomic.Int64

	mu      sync.Mutex
	batches []batch
	first   uint64 // number of batches[0], or of the next one
	bytes   int
	have    map[*cluster.Conn]uint64 // of those that are sent to
	changed chan struct{}            // closed and renewed when there are more
}

// A batch is some lines of one job.
type batch struct {
	job     string
	entries []entry
	bytes   int
}

const (
	// LinesBytes is the bound of waiting lines when nobody says another.
	LinesBytes   = 16 << 20
	batchEntries = 1000
	batchBytes   = 1 << 20
)

// NewLines returns lines that come from this incarnation of a TaskManager. At
// most so many bytes wait; 0 is LinesBytes.
func NewLines(taskManager string, maxBytes int) *Lines {
	if maxBytes <= 0 {
		maxBytes = LinesBytes
	}
	return &Lines{
		source: taskManager + "/" + newID(), max: maxBytes, first: 1,
		have: map[*cluster.Conn]uint64{}, changed: make(chan struct{}),
	}
}

// Append sends lines of a job. It never waits.
func (l *Lines) Append(job string, entries ...joblog.Entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(entries) > 0 {
		b := batch{job: job}
		for len(entries) > 0 && len(b.entries) < batchEntries && b.bytes < batchBytes {
			e := encodeEntry(&entries[0])
			b.entries = append(b.entries, e)
			b.bytes += len(e.Text) + len(e.Transform) + len(e.Origin) + 100
			entries = entries[1:]
		}
		l.batches = append(l.batches, b)
		l.bytes += b.bytes
	}
	for l.bytes > l.max && len(l.batches) > 1 {
		l.lost.Add(int64(len(l.batches[0].entries)))
		l.dropFirst()
	}
	close(l.changed)
	l.changed = make(chan struct{})
}

func encodeEntry(e *joblog.Entry) entry {
	text := e.Text
	if len(text) > joblog.MaxText {
		text = text[:joblog.MaxText]
	}
	return entry{e.Time.UnixNano(), int(e.Level), e.Origin, e.Transform, strings.ToValidUTF8(text, "\uFFFD")}
}

func decodeEntry(e *entry) joblog.Entry {
	return joblog.Entry{
		Time: time.Unix(0, e.Nanos), Level: min(max(joblog.Level(min(e.Level, 100)), joblog.Debug), joblog.Failure),
		Origin: e.Origin, Transform: e.Transform, Text: e.Text,
	}
}

// Lost is how many lines found no room.
func (l *Lines) Lost() int64 { return l.lost.Load() }

// dropFirst forgets the oldest batch. The lock is held.
func (l *Lines) dropFirst() {
	l.bytes -= l.batches[0].bytes
	l.batches[0] = batch{}
	l.batches = l.batches[1:]
	l.first++
}

// after waits for a batch with a number greater than seq.
func (l *Lines) after(ctx context.Context, seq uint64) (uint64, batch, error) {
	for {
		l.mu.Lock()
		next := max(seq+1, l.first)
		if i := next - l.first; i < uint64(len(l.batches)) {
			b := l.batches[i]
			l.mu.Unlock()
			return next, b, nil
		}
		changed := l.changed
		l.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return 0, batch{}, ctx.Err()
		}
	}
}

// has notes what a JobManager has, and forgets what all of them have.
func (l *Lines) has(to *cluster.Conn, seq uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.have[to] = max(l.have[to], seq)
	l.trim()
}

// trim forgets what all JobManagers have. The lock is held.
func (l *Lines) trim() {
	least := l.first + uint64(len(l.batches))
	for _, n := range l.have {
		least = min(least, n)
	}
	for len(l.batches) > 0 && l.first <= least {
		l.dropFirst()
	}
}

// expect says that a JobManager is to get all lines.
func (l *Lines) expect(to *cluster.Conn) { l.has(to, 0) }

// forget says that a JobManager gets no more.
func (l *Lines) forget(to *cluster.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.have, to)
	if len(l.have) > 0 {
		l.trim()
	}
}

// send keeps one JobManager up to date until ctx ends.
func (l *Lines) send(ctx context.Context, to *cluster.Conn) {
	for pause := shortPause; ctx.Err() == nil; pause = min(2*pause, longPause) {
		if l.stream(ctx, to) {
			pause = shortPause
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}

// stream sends over one connection. It reports whether there was one.
func (l *Lines) stream(ctx context.Context, to *cluster.Conn) bool {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := linesTalk.Open(ctx, to)
	if err != nil {
		return false
	}
	defer s.Close()
	if err := s.Send(&linesUp{Source: l.source}); err != nil {
		return false
	}
	m, err := s.Recv()
	if err != nil {
		return false
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer s.Close() // ends a Send
	defer cancel()
	seq := m.Have
	wg.Go(func() {
		defer s.Close() // ends a Recv
		for {
			n, b, err := l.after(ctx, seq)
			if err != nil || s.Send(&linesUp{Seq: n, Job: b.job, Entries: b.entries}) != nil {
				return
			}
			seq = n
		}
	})
	for {
		l.has(to, m.Have)
		if m, err = s.Recv(); err != nil {
			return true
		}
	}
}

// sources are the processes that lines have come from.
type sources struct {
	mu   sync.Mutex
	have map[string]*source
}

type source struct {
	mu       sync.Mutex // also while lines of it are being taken
	have     uint64
	failures int // to take what follows

	used time.Time // guarded by sources.mu
}

// maxFailures is how often the same lines may fail to be taken.
const maxFailures = 10

// manySources is from where on those that were long silent are forgotten.
const manySources = 1000

func (x *sources) of(name string, had func(string) uint64) *source {
	x.mu.Lock()
	defer x.mu.Unlock()
	s := x.have[name]
	if s == nil {
		s = &source{}
		if had != nil {
			s.have = had(name)
		}
		x.have[name] = s
	}
	s.used = time.Now()
	if len(x.have) > manySources {
		oldest := name
		for n, o := range x.have {
			if o.used.Before(x.have[oldest].used) {
				oldest = n
			}
		}
		delete(x.have, oldest)
	}
	return s
}

// takeLines is one connection of a TaskManager's lines.
func (s *Server) takeLines(ctx context.Context, stream *cluster.Stream[linesDown, linesUp]) error {
	m, err := stream.Recv()
	if err != nil {
		return err
	}
	if m.Source == "" {
		return &cluster.Error{Kind: kindRefused, Text: "lines must have a source"}
	}
	name := m.Source
	if who, known := cluster.Verified(ctx); known && !strings.HasPrefix(name, who+"/") {
		return &cluster.Error{Kind: kindRefused, Text: fmt.Sprintf("%s sends lines of %s", who, name)}
	}
	from := s.lines.of(name, s.cfg.Have)
	from.mu.Lock()
	have := from.have
	from.mu.Unlock()
	for {
		if err := stream.Send(&linesDown{Have: have}); err != nil {
			return err
		}
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if have, err = s.takeBatch(from, name, m); err != nil {
			return err
		}
	}
}

// takeBatch hands lines on, unless they are known.
func (s *Server) takeBatch(from *source, name string, m *linesUp) (have uint64, err error) {
	from.mu.Lock()
	defer from.mu.Unlock()
	if m.Seq <= from.have {
		return from.have, nil
	}
	if s.cfg.Lines != nil {
		entries := make([]joblog.Entry, len(m.Entries))
		for i := range m.Entries {
			entries[i] = decodeEntry(&m.Entries[i])
		}
		if err := s.cfg.Lines(m.Job, name, m.Seq, entries); err != nil {
			if from.failures++; from.failures < maxFailures {
				return from.have, err
			}
			// There may be something about them; others wait behind.
			s.cfg.Log.Error("lines are lost", "from", name, "job", m.Job, "lines", len(entries), "err", err)
		}
	}
	from.have, from.failures = m.Seq, 0
	return from.have, nil
}
