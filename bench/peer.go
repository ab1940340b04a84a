package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"
)

// Names of the runners, as flags and tables have them.
const (
	trestleName = "trestle"
	prismName   = "prism"
	flinkName   = "flink"
	fnapiName   = "fnapi" // the Python SDK's FnApiRunner: client, runner and workers in one
	aloneName   = "alone" // no runner: a program that shows what the machine gives
)

// What stands in the tables.
var titles = map[string]string{
	trestleName: "Trestle",
	prismName:   "Prism " + beamVersion,
	flinkName:   "Flink " + flinkVersion,
	fnapiName:   "FnApiRunner",
	aloneName:   "no runner",
}

const (
	beamVersion  = "2.77"
	flinkVersion = "2.62"
)

// A server is a started runner with a job endpoint.
type server struct {
	*process
	endpoint string
	web      string // Trestle's own web address
	dir      string // removed when it stops
}

const startTime = time.Minute

// A setting is how a runner is started for a case. Zero is the default.
type setting struct {
	flags   []string // of trestle serve
	profile bool
}

// start starts a runner of that name with a directory of its own.
func (w *workshop) start(ctx context.Context, name string, s setting) (*server, error) {
	dir, err := os.MkdirTemp(w.scratch, name+"-")
	if err != nil {
		return nil, err
	}
	var srv *server
	switch name {
	case trestleName:
		srv, err = w.startTrestle(ctx, dir, s)
	case prismName:
		srv, err = w.startPrism(ctx, dir)
	case flinkName:
		srv, err = w.startFlink(ctx, dir)
	default:
		err = fmt.Errorf("%s is no server", name)
	}
	if err != nil {
		_ = os.RemoveAll(dir)
		return nil, fmt.Errorf("start %s: %w", titles[name], err)
	}
	srv.dir = dir
	return srv, nil
}

func (s *server) close() {
	s.stop()
	_ = os.RemoveAll(s.dir)
}

func (w *workshop) startTrestle(ctx context.Context, dir string, s setting) (*server, error) {
	ready := filepath.Join(dir, "ready.json")
	args := append([]string{"serve", "--job-addr=127.0.0.1:0", "--web-addr=127.0.0.1:0",
		"--data=" + filepath.Join(dir, "data"), "--ready-file=" + ready}, s.flags...)
	if s.profile {
		args = append(args, "--profiles")
	}
	p, err := launch(exec.Command(w.trestle, args...), filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	var addr struct{ Job, Web string }
	err = p.await(ctx, startTime, func() bool {
		text, err := os.ReadFile(ready)
		return err == nil && json.Unmarshal(text, &addr) == nil
	})
	if err != nil {
		p.stop()
		return nil, err
	}
	return &server{process: p, endpoint: addr.Job, web: addr.Web}, nil
}

func (w *workshop) startPrism(ctx context.Context, dir string) (*server, error) {
	ports, err := freePorts(1)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(w.prism, "--job_port="+ports[0], "--serve_http=false", "--log_level=warn")
	cmd.Env = append(os.Environ(), "TMPDIR="+dir)
	return dialled(ctx, cmd, dir, ports[0])
}

// The parts of the JDK that Flink looks into.
var opened = []string{"java.util", "java.lang", "java.nio", "sun.nio.ch", "java.lang.invoke", "java.util.concurrent", "java.time"}

func (w *workshop) startFlink(ctx context.Context, dir string) (*server, error) {
	ports, err := freePorts(3)
	if err != nil {
		return nil, err
	}
	args := []string{"-Djava.io.tmpdir=" + dir, "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"}
	for _, pkg := range opened {
		args = append(args, "--add-opens=java.base/"+pkg+"=ALL-UNNAMED")
	}
	args = append(args, "-cp", filepath.Join(w.flink, "*"), "org.apache.beam.runners.flink.FlinkJobServerDriver",
		"--flink-master", "[local]", "--artifacts-dir", filepath.Join(dir, "artifacts"),
		"--job-port", ports[0], "--artifact-port", ports[1], "--expansion-port", ports[2])
	return dialled(ctx, exec.Command("java", args...), dir, ports[0])
}

// dialled starts a program and waits until its port is open.
func dialled(ctx context.Context, cmd *exec.Cmd, dir, port string) (*server, error) {
	p, err := launch(cmd, filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	// localhost: both peers listen where that name points to.
	addr := net.JoinHostPort("localhost", port)
	err = p.await(ctx, startTime, func() bool {
		conn, err := net.DialTimeout("tcp", addr, time.Second)
		if err != nil {
			return false
		}
		return conn.Close() == nil
	})
	if err != nil {
		p.stop()
		return nil, err
	}
	return &server{process: p, endpoint: addr}, nil
}

// freePorts asks the system for ports that nobody has. Somebody might take one
// before the runner does; then the runner doesn't start, and says so.
func freePorts(n int) ([]string, error) {
	var ports []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		ports = append(ports, strconv.Itoa(l.Addr().(*net.TCPAddr).Port))
	}
	return ports, nil
}

func isServer(name string) bool { return name != fnapiName && name != aloneName }
