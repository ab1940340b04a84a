package node

import (
	"context"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"trestle/runner/joblog"
)

// postsAhead bounds the messages that wait to be written. They come from
// places that must not wait for a disk; what finds no room is counted.
const postsAhead = 4096

// A mailbox writes messages to the logs of jobs, in batches.
type mailbox struct {
	sink   sink
	log    *slog.Logger
	echoes *echoes
	posts  chan post
	held   []post // of processes' output, the oldest first; only run's goroutine touches it

	lost, lostInAll atomic.Int64 // lost: since it was last told of

	// mark is the file that remembers how far the log of decisions was told; ""
	// is none. After a restart the same lines come again.
	mark   string
	marked uint64 // what the file says; only run's goroutine touches it, and newMailbox
	before uint64 // what was told before this process
	told   atomic.Uint64

	mu    sync.Mutex
	index uint64 // of the entry that the last line was from
	line  uint64 // how many lines of it there were
}

// A sink is where messages go: the job logs of this machine, or those of the
// JobManagers.
type sink interface {
	Append(job string, entries ...joblog.Entry) error
}

type post struct {
	job   string
	entry joblog.Entry
	// output is the time at which a process wrote the line; zero for others. It
	// waits to be known for an echo.
	output time.Time
}

func newMailbox(to sink, mark string, log *slog.Logger) *mailbox {
	m := &mailbox{sink: to, log: log, echoes: newEchoes(), posts: make(chan post, postsAhead), mark: mark}
	if text, err := os.ReadFile(mark); err == nil {
		// Where it can't be read, lines are told again and found to be known.
		m.before, _ = strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
		m.marked = m.before
	}
	return m
}

// logSource is the source of what the log of decisions says.
const logSource = "log"

// Post takes one message of the Board. It never waits. The Board says one thing
// at level Error: why a job has failed.
func (m *mailbox) Post(index uint64, job string, at time.Time, level slog.Level, text string) {
	e := joblog.Entry{Time: at, Level: messageLevel(level), Origin: "runner", Text: text}
	if e.Level == joblog.Error {
		e.Level = joblog.Failure
	}
	if index > 0 {
		if index <= m.before {
			return
		}
		e.Source, e.Seq = logSource, m.number(index)
	}
	m.put(post{job: job, entry: e})
	if index > 0 {
		m.told.Store(index) // not before it is in the queue: see remember
	}
}

// number gives each line of an entry of the log a number of its own, the same
// one whenever the log is told.
func (m *mailbox) number(index uint64) uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	if index != m.index {
		m.index, m.line = index, 0
	}
	m.line++
	return index<<lineBits | min(m.line, 1<<lineBits-1)
}

// lineBits is room for the lines of one entry; what is beyond it is lost.
const lineBits = 20

// remember writes down how far the log was told, give or take what is under
// way: that is found to be known when it comes again.
func (m *mailbox) remember() {
	told := m.told.Load()
	if m.mark == "" || told <= m.marked || len(m.posts) > 0 {
		return
	}
	if err := os.WriteFile(m.mark, []byte(strconv.FormatUint(told, 10)), 0o600); err == nil {
		m.marked = told
	}
}

// output takes a line that a worker process wrote. It never waits. What the
// worker has logged, too, is not shown a second time.
func (m *mailbox) output(job, worker, line string) {
	now := time.Now()
	m.put(post{job: job, output: now, entry: joblog.Entry{Time: now, Level: joblog.Info, Origin: worker, Text: line}})
}

// logged notes what a worker has logged, on its way to the store.
func (m *mailbox) logged(job string, entries []joblog.Entry) {
	now := time.Now()
	for i := range entries {
		m.echoes.logged(job, entries[i].Origin, entries[i].Text, now)
	}
}

func (m *mailbox) put(p post) {
	select {
	case m.posts <- p:
	default:
		m.lost.Add(1)
		m.lostInAll.Add(1)
	}
}

// run writes messages until ctx ends, and then what is left.
func (m *mailbox) run(ctx context.Context) error {
	tick := time.NewTicker(heldFor / 4)
	defer tick.Stop()
	for {
		select {
		case p := <-m.posts:
			m.write(m.gather(p))
		case <-tick.C:
			now := time.Now()
			m.release(now.Add(-heldFor))
			m.echoes.expire(now)
			m.remember()
		case <-ctx.Done():
			for {
				select {
				case p := <-m.posts:
					m.write(m.gather(p))
				default:
					m.release(time.Now())
					m.remember()
					return nil
				}
			}
		}
	}
}

// gather takes what waits behind a post.
func (m *mailbox) gather(p post) []post {
	batch := []post{p}
	for len(batch) < 256 {
		select {
		case next := <-m.posts:
			batch = append(batch, next)
		default:
			return batch
		}
	}
	return batch
}

// write appends messages, and holds what processes wrote.
func (m *mailbox) write(batch []post) {
	var now []post
	for _, p := range batch {
		if p.output.IsZero() {
			now = append(now, p)
		} else {
			m.held = append(m.held, p)
		}
	}
	m.append(now)
	if len(m.held) > postsAhead { // so many that they can't all be held
		m.release(m.held[len(m.held)-postsAhead].output)
	}
}

// release shows what was written by processes until then, but for echoes.
func (m *mailbox) release(until time.Time) {
	n := 0
	var batch []post
	for ; n < len(m.held) && !m.held[n].output.After(until); n++ {
		if p := m.held[n]; !m.echoes.take(p.job, p.entry.Origin, p.entry.Text) {
			batch = append(batch, p)
		}
	}
	m.held = slices.Delete(m.held, 0, n)
	m.append(batch)
}

// append writes posts, those of one job that follow one another at once.
func (m *mailbox) append(batch []post) {
	if lost := m.lost.Swap(0); lost > 0 {
		m.log.Warn("messages of jobs came faster than they could be written", "lost", lost)
	}
	for len(batch) > 0 {
		job := batch[0].job
		var entries []joblog.Entry
		for len(batch) > 0 && batch[0].job == job {
			entries = append(entries, batch[0].entry)
			batch = batch[1:]
		}
		if err := m.sink.Append(job, entries...); err != nil {
			m.log.Error("messages are lost", "job", job, "messages", len(entries), "err", err)
		}
	}
}
