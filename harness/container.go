package harness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"sync"
	"time"

	"trestle/harness/child"
	"trestle/harness/contract"
)

const (
	engineTimeout = 5 * time.Second
	// engineFresh is how long an engine's answer is believed. Pipelines come
	// faster than engines come and go.
	engineFresh = 15 * time.Second
)

// An engine is docker or podman, if one answers.
type engine struct {
	mu      sync.Mutex
	program string // fixed if set at first
	asked   time.Time
	found   string
	err     error
}

// find returns the program of an engine that answers, or why there is none.
func (e *engine) find() (string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.asked.IsZero() && time.Since(e.asked) < engineFresh {
		return e.found, e.err
	}
	programs := []string{"docker", "podman"}
	if e.program != "" {
		programs = []string{e.program}
	}
	e.found, e.err = "", nil
	for _, program := range programs {
		err := answers(program)
		if err == nil {
			e.found = program
			break
		}
		e.err = errors.Join(e.err, err)
	}
	if e.found != "" {
		e.err = nil
	} else {
		e.err = fmt.Errorf("no container engine is reachable here (%w)", oneLine(e.err))
	}
	e.asked = time.Now()
	return e.found, e.err
}

// answers asks an engine for its version, which its server must tell.
func answers(program string) error {
	if _, err := exec.LookPath(program); err != nil {
		return fmt.Errorf("%s is not installed", program)
	}
	ctx, cancel := context.WithTimeout(context.Background(), engineTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "version", "--format", "{{.Server.Version}}")
	cmd.WaitDelay = time.Second
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Run(); err != nil {
		if said.Len() > 0 {
			return fmt.Errorf("%s: %s", program, bytes.TrimSpace(said.Bytes()))
		}
		return fmt.Errorf("%s: %w", program, err)
	}
	return nil
}

// oneLine joins what errors.Join has put on several lines.
func oneLine(err error) error {
	return errors.New(string(bytes.ReplaceAll([]byte(err.Error()), []byte("\n"), []byte("; "))))
}

// A container launcher runs the image of a DOCKER environment.
type container struct{ program, image string }

func (c *container) String() string { return fmt.Sprintf("container %q", c.image) }

func (c *container) launch(_ context.Context, f *fleet, name string, w contract.Worker) (instance, error) {
	called := "trestle-" + w.ID
	remove := []string{c.program, "rm", "--force", called}
	running, err := f.pool.children.Start(child.Command{
		Path:   c.program,
		Args:   append([]string{"run", "--rm", "--network=host", "--name=" + called, c.image}, w.BootArgs()...),
		Env:    environ(),
		Mark:   w.ID,
		Output: f.output(name),
		Undo:   remove,
	})
	if err != nil {
		return nil, err
	}
	cleanUp := func() {
		ctx, cancel := context.WithTimeout(context.Background(), engineTimeout)
		defer cancel()
		// It is gone already where it ended by itself, and then this fails.
		_ = exec.CommandContext(ctx, remove[0], remove[1:]...).Run()
	}
	return &local{Process: running, grace: f.pool.options.StopGrace, cleanUp: cleanUp}, nil
}
