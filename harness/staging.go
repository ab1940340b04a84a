package harness

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"trestle/harness/contract"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"
)

// Names inside a fleet's directory.
const (
	stagedDir  = "staged"
	binaryName = "worker"
)

// longestName bounds a staged name.
const longestName = 1024

func environ() []string { return contract.Inherited(os.Environ()) }

// binaryPath is where stage puts the Go worker binary.
func (f *fleet) binaryPath() string { return filepath.Join(f.dir, binaryName) }

// A workerDir is the directory of one worker.
type workerDir struct{ path string }

func (d workerDir) remove() { os.RemoveAll(d.path) }

// workerDir makes a directory for a worker, in which what the job staged is
// seen as "staged", as in an SDK container.
func (f *fleet) workerDir(ctx context.Context, id string) (workerDir, error) {
	f.staging.Do(func() { f.staged = f.stage(ctx) })
	if f.staged != nil {
		return workerDir{}, f.staged
	}
	d := workerDir{filepath.Join(f.dir, id)}
	if err := os.Mkdir(d.path, 0o700); err != nil {
		return workerDir{}, err
	}
	if err := os.Symlink(filepath.Join(f.dir, stagedDir), filepath.Join(d.path, stagedDir)); err != nil {
		d.remove()
		return workerDir{}, err
	}
	return d, nil
}

// stage makes the fleet's directory and puts into it what the job has staged
// for the environment, once for all its workers.
func (f *fleet) stage(ctx context.Context) error {
	dir, err := os.MkdirTemp(f.pool.options.Dir, dirPattern)
	if err != nil {
		return err
	}
	f.dir = dir
	if err := os.Mkdir(filepath.Join(dir, stagedDir), 0o700); err != nil {
		return err
	}
	p, ok := f.plan.launch.(*process)
	if ok && p.binary != nil {
		root, err := os.OpenRoot(dir)
		if err != nil {
			return err
		}
		defer root.Close()
		if err := f.fetch(ctx, p.binary, root, binaryName, 0o700); err != nil {
			return fmt.Errorf("fetch the Go worker binary: %w", err)
		}
		return nil
	}
	root, err := os.OpenRoot(filepath.Join(dir, stagedDir))
	if err != nil {
		return err
	}
	defer root.Close()
	return f.fetchAll(ctx, root)
}

// fetchAll puts the environment's dependencies under their staged names.
func (f *fleet) fetchAll(ctx context.Context, root *os.Root) error {
	for _, a := range f.plan.env.GetDependencies() {
		if a.GetRoleUrn() != urnStagingTo {
			continue
		}
		var role pipepb.ArtifactStagingToRolePayload
		if err := proto.Unmarshal(a.GetRolePayload(), &role); err != nil {
			return &finalError{fmt.Errorf("a staged file's role is broken: %w", err)}
		}
		name := role.GetStagedName()
		if len(name) > longestName || !filepath.IsLocal(name) {
			return &finalError{fmt.Errorf("the staged name %.100q does not stay in the staging directory", name)}
		}
		if err := root.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			return fmt.Errorf("stage %q: %w", name, err)
		}
		if err := f.fetch(ctx, a, root, name, 0o600); err != nil {
			return fmt.Errorf("stage %q: %w", name, err)
		}
	}
	return nil
}

// fetch writes one artifact.
func (f *fleet) fetch(ctx context.Context, a *pipepb.ArtifactInformation, root *os.Root, name string, mode os.FileMode) error {
	in, err := f.pool.artifacts.Open(ctx, f.request.Job, a)
	if err != nil {
		return err
	}
	defer in.Close()
	// Two files of one name are the client's mistake; the first one stays.
	out, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
