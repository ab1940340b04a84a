// Package joblog keeps what a job, the runner and the job's workers have to
// say, in bounded files, with positions to resume from.
//
// Each job has a log of its own. Entries are numbered from 1 in the order of
// their arrival, and a reader can start after any number, at any time, also
// after the job has ended or the process was restarted. A log is a directory
// of files of JSON lines that a person can read with other tools.
//
// A log is bounded: it keeps its beginning and its end. What falls out of the
// middle leaves its important entries (warnings and worse) behind, as far as a
// share of the bound goes; a reader is told how many entries are missing.
// Nothing is synced to disk: after a power cut the last lines may be gone, and
// a torn one is cut off. What must not be lost belongs in the journal.
//
// No goroutine runs here. Append writes one buffer per call, so callers pass
// lines as they get them, in batches.
package joblog

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// A Level says how much an entry matters.
type Level int8

const (
	Debug Level = iota + 1
	Info
	Warn
	Error // something went wrong; the job may go on
	// Failure is why the job ended. Clients show it as the job's error.
	Failure
)

var levelNames = [...]string{Debug: "debug", Info: "info", Warn: "warn", Error: "error", Failure: "failure"}

func (l Level) String() string {
	if l < Debug || l > Failure {
		return fmt.Sprintf("level(%d)", int(l))
	}
	return levelNames[l]
}

// MarshalText writes the level's name.
func (l Level) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText reads a level's name.
func (l *Level) UnmarshalText(b []byte) error {
	for i, n := range levelNames {
		if n != "" && n == string(b) {
			*l = Level(i)
			return nil
		}
	}
	return fmt.Errorf("unknown level %q", b)
}

// An Entry is one message.
type Entry struct {
	N         uint64    `json:"n"` // position: 1 for a log's first entry; Append sets it
	Time      time.Time `json:"time"`
	Level     Level     `json:"level"`
	Origin    string    `json:"origin,omitempty"`    // who says it: "runner", or a worker's id
	Transform string    `json:"transform,omitempty"` // the author's name for it, if known
	Text      string    `json:"text"`
	// Source and Seq, if Source is set, name the entry's place in what one
	// process tells: numbers that never fall. Entries that come again, from a
	// process that doesn't know what has arrived, are dropped by them.
	Source string `json:"source,omitempty"`
	Seq    uint64 `json:"seq,omitempty"`
	// Missing is how many entries before this one are no longer kept. Only
	// readers set it.
	Missing uint64 `json:"missing,omitempty"`
}

// MaxText bounds an entry's text; the rest of a longer one is cut off.
const MaxText = 128 << 10

var (
	// ErrNotFound means that there is no such log.
	ErrNotFound = errors.New("no messages are kept for that job")
	// errCorrupt is a line that is no entry.
	errCorrupt = errors.New("message log is corrupt")
)

func encode(dst []byte, e *Entry) ([]byte, error) {
	line, err := json.Marshal(e)
	if err != nil {
		return dst, err
	}
	dst = append(dst, line...)
	return append(dst, '\n'), nil
}

func decode(line []byte) (Entry, error) {
	var e Entry
	if err := json.Unmarshal(line, &e); err != nil || e.N == 0 {
		return Entry{}, errCorrupt
	}
	return e, nil
}
