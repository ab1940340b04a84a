package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"time"
)

// A workshop has the programs that are measured and those that measure. All
// are made from modules and jars at first need and kept in the cache.
type workshop struct {
	cache   string
	scratch string // data of started runners, on the same disk
	trestle string
	prism   string
	flink   string // directory of jars
	python  string

	atEnd []func() // what close does, last first

	wall   time.Duration // of all measured jobs
	others time.Duration // CPU of other processes meanwhile
}

// disturbed is the part of the machine that others used while jobs ran.
func (w *workshop) disturbed() float64 {
	return quotient(w.others, w.wall*time.Duration(runtime.NumCPU()))
}

func (w *workshop) note(m measurement) {
	w.wall += m.wall
	w.others += m.others
}

// module is where Beam's Go programs come from.
const module = "github.com/apache/beam/sdks/v2/go/"

func newWorkshop(o *options) (*workshop, error) {
	w := &workshop{
		cache:   o.cache,
		scratch: filepath.Join(o.cache, "bench"),
		trestle: o.trestle,
		prism:   filepath.Join(o.cache, "bin", "prism"),
		flink:   filepath.Join(o.cache, "flink"),
		python:  filepath.Join(o.cache, "venv", "bin", "python"),
	}
	for _, dir := range []string{w.scratch, filepath.Join(o.cache, "bin")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
	}
	if _, err := os.Stat(w.trestle); err != nil {
		return nil, fmt.Errorf("%w (make build makes it)", err)
	}
	return w, nil
}

// close ends what was started for several jobs.
func (w *workshop) close() {
	for _, end := range slices.Backward(w.atEnd) {
		end()
	}
}

// ready makes what a peer needs.
func (w *workshop) ready(ctx context.Context, peer string) error {
	switch peer {
	case prismName:
		return w.build(ctx, w.prism, module+"cmd/prism")
	case flinkName:
		return w.fetchFlink(ctx)
	}
	return nil
}

// client is the path of a compiled client.
func (w *workshop) client(name string) string { return filepath.Join(w.cache, "bin", "bench-"+name) }

// build compiles a package of this module or of one that it requires. Go's own
// cache knows whether there is anything to do.
func (w *workshop) build(ctx context.Context, to, pkg string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-o", to, pkg)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", pkg, err, out)
	}
	return nil
}

// fetchFlink copies the jars of Flink's job server into the cache, once for
// each version of the list.
func (w *workshop) fetchFlink(ctx context.Context) error {
	pom, err := os.ReadFile(filepath.Join("bench", "flink", "pom.xml"))
	if err != nil {
		return fmt.Errorf("%w (run it in the root of the repository)", err)
	}
	mark := filepath.Join(w.flink, "pom.xml")
	if have, err := os.ReadFile(mark); err == nil && string(have) == string(pom) {
		return nil
	}
	fmt.Fprintln(os.Stderr, "fetching Flink")
	if err := os.RemoveAll(w.flink); err != nil {
		return err
	}
	mvn := os.Getenv("MVN")
	if mvn == "" {
		mvn = "mvn"
	}
	cmd := exec.CommandContext(ctx, mvn, "--quiet", "--batch-mode", "--file", filepath.Join("bench", "flink", "pom.xml"),
		"dependency:copy-dependencies", "-DincludeScope=runtime", "-DoutputDirectory="+w.flink)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("fetch Flink: %w\n%s", err, out)
	}
	return os.WriteFile(mark, pom, 0o644)
}
