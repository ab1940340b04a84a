package artifact

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"
)

func open(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := New(dir, Options{MaxFileBytes: 1000, MaxJobBytes: 1500})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func add(t *testing.T, s *Store, job, content string) string {
	t.Helper()
	in, err := s.Receive(job)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Abort()
	if _, err := in.Write([]byte(content)); err != nil {
		t.Fatal(err)
	}
	name, err := in.Commit("")
	if err != nil {
		t.Fatal(err)
	}
	return name
}

func get(s *Store, name string) (string, error) {
	r, err := s.Open(name)
	if err != nil {
		return "", err
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	return string(b), err
}

// A file lives as long as one of its jobs.
func TestHolders(t *testing.T) {
	s := open(t, t.TempDir())
	name := add(t, s, "a", "x")
	if again := add(t, s, "b", "x"); again != name {
		t.Fatal("one content has two names")
	}
	add(t, s, "b", "x") // held once, however often it comes
	s.Release("a")
	if got, err := get(s, name); err != nil || got != "x" {
		t.Errorf("while b holds it: %q %v", got, err)
	}
	s.Release("b")
	s.Release("b")
	if _, err := get(s, name); !errors.Is(err, ErrNotFound) {
		t.Errorf("without a holder: %v", err)
	}
	if got, err := get(s, EmptySHA256); err != nil || got != "" {
		t.Errorf("the empty file: %q %v", got, err)
	}
}

// What was sealed survives a restart; what was not, and what never arrived
// whole, is gone from the disk.
func TestRestart(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	sealed := add(t, s, "a", "sealed")
	if err := s.Seal("a"); err != nil {
		t.Fatal(err)
	}
	lost := add(t, s, "b", "not sealed")
	half, err := s.Receive("c")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := half.Write([]byte("half")); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	if got, err := get(s, sealed); err != nil || got != "sealed" {
		t.Errorf("sealed: %q %v", got, err)
	}
	if _, err := get(s, lost); !errors.Is(err, ErrNotFound) {
		t.Errorf("not sealed: %v", err)
	}
	if left, _ := os.ReadDir(filepath.Join(dir, "incoming")); len(left) != 0 {
		t.Errorf("left over: %v", left)
	}
	s.Keep(func(job string, last time.Time) bool { return job == "a" && time.Since(last) < time.Minute })
	if _, err := get(s, sealed); err != nil {
		t.Errorf("a job that is wanted: %v", err)
	}
	s.Keep(func(string, time.Time) bool { return false })
	if left, _ := os.ReadDir(filepath.Join(dir, "sha256")); len(left) != 0 {
		t.Errorf("kept without holder: %v", left)
	}
}

// A store that has a job's files by another way makes them the job's, and then
// they live and end as if it had been told of them by the client.
func TestAdopt(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	x, y := add(t, s, "a", "x"), add(t, s, "copied", "y")
	none := strings.Repeat("0", 64)
	missing, err := s.Adopt("b", x, none, EmptySHA256, "../x", y)
	if err != nil || !slices.Equal(missing, []string{none, "../x"}) {
		t.Fatalf("missing %v, %v", missing, err)
	}
	s.Release("a")
	s.Release("copied")
	s = open(t, dir)
	want := []string{x, y}
	slices.Sort(want)
	if got := s.Names("b"); !slices.Equal(got, want) {
		t.Errorf("after a restart b holds %v, not %v", got, want)
	}
	if got, err := get(s, x); err != nil || got != "x" {
		t.Errorf("held by b: %q %v", got, err)
	}
	s.Release("b")
	if left, _ := os.ReadDir(filepath.Join(dir, "sha256")); len(left) != 0 {
		t.Errorf("kept without holder: %v", left)
	}
	if _, err := s.Adopt("../b", x); err == nil {
		t.Error("a job's name that is a path was taken")
	}
}

// A flipped bit on the disk is an error at the reader's end, and the next job
// that brings the file repairs it.
func TestDamage(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	name := add(t, s, "a", "content")
	path := filepath.Join(dir, "sha256", name)
	if err := os.Chmod(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("c0ntent"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := get(s, name); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("damaged: %v", err)
	}
	add(t, s, "b", "content")
	if got, err := get(s, name); err != nil || got != "content" {
		t.Errorf("repaired: %q %v", got, err)
	}
}

// Bounds hold for a file and for all files of a job.
func TestBounds(t *testing.T) {
	s := open(t, t.TempDir())
	write := func(job string, n int) error {
		in, err := s.Receive(job)
		if err != nil {
			t.Fatal(err)
		}
		defer in.Abort()
		_, err = in.Write(make([]byte, n))
		return err
	}
	if err := write("a", 1001); !errors.Is(err, ErrTooLarge) {
		t.Errorf("file: %v", err)
	}
	add(t, s, "a", strings.Repeat("x", 900))
	if err := write("a", 601); !errors.Is(err, ErrTooLarge) {
		t.Errorf("job: %v", err)
	}
	if err := write("a", 600); err != nil {
		t.Errorf("within bounds: %v", err)
	}
}

// Names that are no hash are not looked for.
func TestNames(t *testing.T) {
	s := open(t, t.TempDir())
	for _, name := range []string{"", "..", "../jobs/a", strings.Repeat("g", 64), strings.Repeat("a", 63) + "/", EmptySHA256 + "0"} {
		if _, err := s.Open(name); !errors.Is(err, ErrNotFound) {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, job := range []string{"", ".", "../a", "a/b", "a\x00"} {
		if _, err := s.Receive(job); err == nil {
			t.Errorf("job %q was taken", job)
		}
	}
}

// Check says yes or no to whatever comes in, and a name it accepts stays below
// the directory that it is joined to.
func FuzzCheck(f *testing.F) {
	f.Add(RoleStagingTo, "a/b")
	f.Add(RoleStagingTo, "../a")
	f.Add("x", "/")
	f.Fuzz(func(t *testing.T, role, name string) {
		payload, err := proto.Marshal(&pipepb.ArtifactStagingToRolePayload{StagedName: name})
		if err != nil {
			payload = []byte(name) // not UTF-8: send it as garbage
		}
		a := &pipepb.ArtifactInformation{TypeUrn: TypeFile, RoleUrn: role, RolePayload: payload}
		_ = Label(a)
		if Check(a) == nil && role == RoleStagingTo {
			if joined := filepath.Join("/base", name); !strings.HasPrefix(joined, "/base/") {
				t.Errorf("%q leads to %q", name, joined)
			}
		}
	})
}
