// Command demo shows Trestle at work: it starts a server of its own, submits
// the word count of examples/wordcount over real text, and checks every count
// against plain Go.
//
// The text is what every machine that could build Trestle has: the Go sources
// and documents of the Beam module in the module cache. Other files can be
// named with -files.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/term"
)

var (
	trestle  = flag.String("trestle", "bin/trestle", "the trestle program")
	patterns = flag.String("files", "", "files to count, as patterns with spaces between them (default: sources of the Beam module)")
	keep     = flag.Bool("keep", term.IsTerminal(int(os.Stdin.Fd())), "keep the server, and its page, until ^C")
)

func main() {
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := demo(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		stop()
		os.Exit(1)
	}
}

// demo does everything in a directory that it removes.
func demo(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "trestle-demo-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)

	files, err := texts(*patterns)
	if err != nil {
		return err
	}
	list := filepath.Join(dir, "files")
	if err := os.WriteFile(list, []byte(strings.Join(files, "\n")), 0o600); err != nil {
		return err
	}

	fmt.Println("Building the word count, an ordinary Beam Go program …")
	program := filepath.Join(dir, "wordcount")
	if err := run(ctx, "go", "build", "-o", program, "./examples/wordcount"); err != nil {
		return fmt.Errorf("build examples/wordcount: %w", err)
	}
	s, err := serve(ctx, dir)
	if err != nil {
		return err
	}
	err = count(ctx, s, dir, program, list, files)
	if err == nil && *keep {
		fmt.Printf("\nThe page stays at http://%s until you press ^C.\n", s.Web)
		<-ctx.Done()
	}
	return errors.Join(err, s.stop())
}

// count runs the job and checks its result.
func count(ctx context.Context, s *server, dir, program, list string, files []string) error {
	fmt.Printf("Trestle serves jobs at %s and its page at http://%s\n", s.Job, s.Web)
	fmt.Printf("Counting the words of %d files …\n", len(files))
	counts, most := filepath.Join(dir, "counts"), filepath.Join(dir, "most")
	began := time.Now()
	client := exec.CommandContext(ctx, program, "--input=@"+list, "--output="+counts, "--most="+most,
		"--runner=universal", "--endpoint="+s.Job, "--environment_type=LOOPBACK", "--job_name=wordcount")
	client.Env = append(os.Environ(), "TMPDIR="+dir) // the client leaves a file there
	log, err := os.Create(filepath.Join(dir, "client.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	client.Stdout, client.Stderr = log, log
	if err := client.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- client.Wait() }()
	id, err := s.firstJob(ctx, ended)
	if err == nil {
		// Shows the progress. Whether all went well, the client knows.
		_ = run(ctx, *trestle, "wait", id, "--ready-file="+s.ready)
		err = <-ended
	}
	if err != nil {
		said, _ := os.ReadFile(log.Name())
		return fmt.Errorf("the word count: %w\n%s", err, said)
	}
	fmt.Printf("Done in %s.\n\n", time.Since(began).Round(100*time.Millisecond))
	top, err := os.ReadFile(most)
	if err != nil {
		return err
	}
	fmt.Printf("The most frequent words:\n  %s\n", strings.ReplaceAll(strings.TrimSpace(string(top)), "\n", "\n  "))
	return check(files, counts)
}

// run runs a program that talks to the user.
func run(ctx context.Context, name string, args ...string) error {
	c := exec.CommandContext(ctx, name, args...)
	c.Stdout, c.Stderr = os.Stdout, os.Stderr
	return c.Run()
}

// A server is a started trestle.
type server struct {
	Job, Web string

	cmd    *exec.Cmd
	ready  string // file
	exited chan error
}

// startTime bounds a server's start, stopTime its stop.
const (
	startTime = 30 * time.Second
	stopTime  = 15 * time.Second
)

// serve starts trestle on free ports and waits until it serves.
func serve(ctx context.Context, dir string) (*server, error) {
	s := &server{ready: filepath.Join(dir, "ready.json"), exited: make(chan error, 1)}
	s.cmd = exec.Command(*trestle, "serve", "--job-addr=127.0.0.1:0", "--web-addr=127.0.0.1:0",
		"--data="+filepath.Join(dir, "data"), "--ready-file="+s.ready, "--log-level=warn")
	s.cmd.Stderr = os.Stderr
	// ^C is for us, and stop sends the server its own signal.
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := s.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s (made by make build): %w", *trestle, err)
	}
	go func() { s.exited <- s.cmd.Wait() }()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	late := time.After(startTime)
	for {
		select {
		case <-tick.C:
			if text, err := os.ReadFile(s.ready); err == nil && json.Unmarshal(text, s) == nil {
				return s, nil
			}
		case err := <-s.exited:
			return nil, fmt.Errorf("trestle serve ended at its start: %w", err)
		case <-late:
			return nil, errors.Join(fmt.Errorf("trestle serve was not ready within %s", startTime), s.stop())
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), s.stop())
		}
	}
}

// stop ends the server and its workers.
func (s *server) stop() error {
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-s.exited:
		if err != nil {
			return fmt.Errorf("trestle serve: %w", err)
		}
		return nil
	case <-time.After(stopTime):
		_ = s.cmd.Process.Kill()
		return errors.Join(fmt.Errorf("trestle serve did not stop within %s", stopTime), <-s.exited)
	}
}

// firstJob waits for the id of the only job, or the end of the client.
func (s *server) firstJob(ctx context.Context, ended <-chan error) (string, error) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if id := s.job(ctx); id != "" {
				return id, nil
			}
		case err := <-ended:
			if err == nil {
				err = errors.New("it ended without a job")
			}
			return "", err
		}
	}
}

// job asks for the newest job's id, "" if there is none yet.
func (s *server) job(ctx context.Context) string {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.Web+"/api/v1/jobs", nil)
	if err != nil {
		return ""
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return ""
	}
	defer response.Body.Close()
	var list struct{ Jobs []struct{ ID string } }
	if json.NewDecoder(response.Body).Decode(&list) != nil || len(list.Jobs) == 0 {
		return ""
	}
	return list.Jobs[0].ID
}
