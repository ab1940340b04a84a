package jobs

import (
	"bufio"
	"cmp"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// The steps of the pipeline, as the journal names them.
const (
	Source  = "source"
	Salt    = "salt"
	Draw    = "draw"
	First   = "first"
	Second  = "second"
	Publish = "publish"
)

// Steps are those that every element takes.
var Steps = []string{Source, Draw, First, Second}

// HostVariable names the host to what runs there.
const HostVariable = "FLEET_HOST"

// A Run is one element that a step began with.
type Run struct {
	Step string
	ID   string
	Host string
	At   time.Time
}

// A Journal is all that ran of one pipeline.
type Journal []Run

var journals struct {
	sync.Mutex
	open map[string]*os.File // by directory
}

// note writes one line. It is with the system when note returns, so that a kill
// of the process can't take it back.
func note(dir, step string, id any) error {
	journals.Lock()
	f := journals.open[dir]
	if f == nil {
		var err error
		if f, err = openJournal(dir); err != nil {
			journals.Unlock()
			return err
		}
	}
	journals.Unlock()
	// One write of a file opened for appending is one piece.
	_, err := fmt.Fprintf(f, "%s %v %d\n", step, id, time.Now().UnixMicro())
	return err
}

// openJournal makes this process' file. The lock is held.
func openJournal(dir string) (*os.File, error) {
	folder := filepath.Join(dir, "journal")
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, err
	}
	host := cmp.Or(os.Getenv(HostVariable), "here")
	name := filepath.Join(folder, fmt.Sprintf("%s.%d.%s", host, os.Getpid(), rand.Text()))
	f, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	if journals.open == nil {
		journals.open = map[string]*os.File{}
	}
	journals.open[dir] = f
	return f, nil
}

// ReadJournal reads what has been written so far, the oldest first.
func ReadJournal(dir string) (Journal, error) {
	files, err := filepath.Glob(filepath.Join(dir, "journal", "*"))
	if err != nil {
		return nil, err
	}
	var all Journal
	for _, name := range files {
		host, _, _ := strings.Cut(filepath.Base(name), ".")
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			r := Run{Host: host}
			var micros int64
			if _, err := fmt.Sscan(lines.Text(), &r.Step, &r.ID, &micros); err != nil {
				continue // a line that is being written
			}
			r.At = time.UnixMicro(micros)
			all = append(all, r)
		}
		f.Close()
	}
	slices.SortFunc(all, func(a, b Run) int { return a.At.Compare(b.At) })
	return all, nil
}

// Again are the runs that were not the first of their element, by step.
func (j Journal) Again() map[string][]Run {
	seen := map[[2]string]bool{}
	again := map[string][]Run{}
	for _, r := range j {
		if key := [2]string{r.Step, r.ID}; seen[key] {
			again[r.Step] = append(again[r.Step], r)
		} else {
			seen[key] = true
		}
	}
	return again
}

// FirstOn are the elements, by step and number, whose first run was on the host.
func (j Journal) FirstOn(host string) map[[2]string]bool {
	seen, on := map[[2]string]bool{}, map[[2]string]bool{}
	for _, r := range j {
		key := [2]string{r.Step, r.ID}
		if !seen[key] {
			seen[key] = true
			on[key] = r.Host == host
		}
	}
	for key, there := range on {
		if !there {
			delete(on, key)
		}
	}
	return on
}

// Count is the number of runs of a step.
func (j Journal) Count(step string) int {
	n := 0
	for _, r := range j {
		if r.Step == step {
			n++
		}
	}
	return n
}

// Summary is a line for people: runs and repetitions by step.
func (j Journal) Summary() string {
	again := j.Again()
	var words []string
	for _, step := range append(slices.Clone(Steps), Salt, Publish) {
		words = append(words, fmt.Sprintf("%s %d (%d again)", step, j.Count(step), len(again[step])))
	}
	return strings.Join(words, ", ")
}
