package node

import (
	"context"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"trestle/runner/joblog"
)

// postsAhead bounds the messages that wait to be written. They come from
// places that must not wait for a disk; what finds no room is counted.
const postsAhead = 4096

// A mailbox writes messages to the logs of jobs, in batches.
type mailbox struct {
	store *joblog.Store
	log   *slog.Logger
	posts chan post
	lost  atomic.Int64
}

type post struct {
	job   string
	entry joblog.Entry
}

func newMailbox(store *joblog.Store, log *slog.Logger) *mailbox {
	return &mailbox{store: store, log: log, posts: make(chan post, postsAhead)}
}

// Post takes one message of the Dispatcher. It never waits. The Dispatcher says
// one thing at level Error: why a job has failed.
func (m *mailbox) Post(job string, at time.Time, level slog.Level, text string) {
	e := joblog.Entry{Time: at, Level: messageLevel(level), Origin: "runner", Text: text}
	if e.Level == joblog.Error {
		e.Level = joblog.Failure
	}
	m.put(job, e)
}

// output takes a line that a worker process wrote. It never waits. Level Debug,
// because SDKs write there what they log, too.
func (m *mailbox) output(job, worker string, line []byte) {
	if at := strings.LastIndexByte(worker, '-'); at > 0 {
		worker = worker[:at] // without the secret half of its id
	}
	m.put(job, joblog.Entry{Time: time.Now(), Level: joblog.Debug, Origin: worker, Text: string(line)})
}

func (m *mailbox) put(job string, e joblog.Entry) {
	select {
	case m.posts <- post{job, e}:
	default:
		m.lost.Add(1)
	}
}

// run writes messages until ctx ends, and then what is left.
func (m *mailbox) run(ctx context.Context) error {
	for {
		select {
		case p := <-m.posts:
			m.write(p)
		case <-ctx.Done():
			for {
				select {
				case p := <-m.posts:
					m.write(p)
				default:
					return nil
				}
			}
		}
	}
}

// write appends a message, and with it those of the same job that wait behind.
func (m *mailbox) write(p post) {
	batch := []joblog.Entry{p.entry}
	for len(batch) < 256 {
		var next post
		select {
		case next = <-m.posts:
		default:
			m.append(p.job, batch)
			return
		}
		if next.job != p.job {
			m.append(p.job, batch)
			p, batch = next, batch[:0]
		}
		batch = append(batch, next.entry)
	}
	m.append(p.job, batch)
}

func (m *mailbox) append(job string, batch []joblog.Entry) {
	if lost := m.lost.Swap(0); lost > 0 {
		m.log.Warn("messages of jobs came faster than they could be written", "lost", lost)
	}
	if err := m.store.Append(job, batch...); err != nil {
		m.log.Error("messages are lost", "job", job, "messages", len(batch), "err", err)
	}
}
