package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"
)

// A collector takes what pipelines come to from their workers, which may be
// other processes, and decides which of them die.
type collector struct {
	address string

	mu   sync.Mutex
	jobs map[string]*outcome
}

// An outcome is what is known of one job.
type outcome struct {
	lines  map[string][]string // by plan, sorted
	twice  string              // what was said of a plan in two ways
	deaths int                 // that are still to be
}

// most is the longest that workers say at once.
const most = 16 << 20

// listen starts a collector; stop ends it.
func listen() (c *collector, stop func(), err error) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	c = &collector{address: lis.Addr().String(), jobs: map[string]*outcome{}}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /put", c.put)
	mux.HandleFunc("POST /die", c.die)
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = srv.Serve(lis)
	}()
	return c, func() {
		_ = srv.Close()
		<-ended
	}, nil
}

func (c *collector) expect(job string, deaths int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.jobs[job] = &outcome{lines: map[string][]string{}, deaths: deaths}
}

// take is what came of a job.
func (c *collector) take(job string) *outcome {
	c.mu.Lock()
	defer c.mu.Unlock()
	o := c.jobs[job]
	delete(c.jobs, job)
	return o
}

// A report is all the lines of one plan.
type report struct {
	Job, Plan string
	Lines     []string
}

func (c *collector) put(_ http.ResponseWriter, r *http.Request) {
	var in report
	if json.NewDecoder(io.LimitReader(r.Body, most)).Decode(&in) != nil {
		return
	}
	slices.Sort(in.Lines)
	c.mu.Lock()
	defer c.mu.Unlock()
	o := c.jobs[in.Job]
	if o == nil {
		return // of a job that was given up
	}
	// A bundle may be tried again, and must say the same then.
	if had, ok := o.lines[in.Plan]; ok && !slices.Equal(had, in.Lines) {
		o.twice = fmt.Sprintf("of %s came, at first,\n%s\nand then\n%s", in.Plan, had, in.Lines)
	}
	o.lines[in.Plan] = in.Lines
}

func (c *collector) die(w http.ResponseWriter, r *http.Request) {
	job, err := io.ReadAll(io.LimitReader(r.Body, most))
	c.mu.Lock()
	defer c.mu.Unlock()
	if o := c.jobs[string(job)]; err == nil && o != nil && o.deaths > 0 {
		o.deaths--
		w.WriteHeader(http.StatusAccepted)
	}
}

// putFn reports what came of each plan.
type putFn struct{ Job, Address string }

func (f *putFn) ProcessElement(plan string, lines func(*string) bool) error {
	in := report{Job: f.Job, Plan: plan}
	for l := ""; lines(&l); {
		in.Lines = append(in.Lines, l)
	}
	body, err := json.Marshal(in)
	if err == nil {
		_, err = post(f.Address, "put", body)
	}
	return err
}

// bombFn hands on what it is given. At its second element, which is in the
// middle of a bundle, its process dies if it is to.
type bombFn struct {
	Job, Address string

	seen int
}

func (f *bombFn) ProcessElement(key string, value int64) (string, int64, error) {
	if f.seen++; f.seen != 2 {
		return key, value, nil
	}
	answer, err := post(f.Address, "die", []byte(f.Job))
	if err != nil {
		return "", 0, err
	}
	if answer == http.StatusAccepted {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
	return key, value, nil
}

func post(address, what string, body []byte) (answer int, err error) {
	resp, err := http.Post("http://"+address+"/"+what, "application/octet-stream", bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}
