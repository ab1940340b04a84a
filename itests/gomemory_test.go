package itests

import (
	"encoding/json"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// outOfMemory is a test of the Go SDK's whose worker must die of its memory
// limit, and whose boot program must then put the worker's last heap profile
// into a bucket.
const outOfMemory = "TestOomParDo"

// workerKiB is the memory that such a worker is allowed.
const workerKiB = 900 << 10

// TestGoOutOfMemory runs it with the boot program of the SDK's own container,
// its limit, and a bucket of ours.
func TestGoOutOfMemory(t *testing.T) {
	need(t, "go")
	if *quick {
		t.Skip("not among the quick ones")
	}
	suite := "go/test/integration/primitives"
	boot, worker := compileBoot(t), compileGo(t, suite)
	store := serveBucket(t)
	t.Setenv("STORAGE_EMULATOR_HOST", store.url) // of the client
	removeLeftovers(t, worker)
	limited := script(t,
		"ulimit -d "+strconv.Itoa(workerKiB),
		"export STORAGE_EMULATOR_HOST="+store.url,
		"exec "+boot+` --semi_persist_dir="$PWD" "$@"`)
	s := serve(t, "--restart-strategy=none")
	outcomes := runAllWithin(t, 3*time.Minute, "primitives/", []string{outOfMemory}, func([]string) *exec.Cmd {
		return exec.Command(worker, "-test.v", "-test.run", "^"+outOfMemory+"$",
			"--runner=universal", "--endpoint="+s.Job, "--temp_location=gs://bucket/temp",
			"--environment_type=PROCESS", "--environment_config="+processConfig(limited), "--worker_binary="+worker)
	})
	compare(t, outcomes, expected(t, "go_expected.txt"))
	store.mu.Lock()
	defer store.mu.Unlock()
	if len(store.objects) == 0 {
		t.Error("there is no heap profile in the bucket")
	}
	for name, content := range store.objects {
		if !strings.HasPrefix(content, "\x1f\x8b") {
			t.Errorf("%s is no profile: it isn't compressed", name)
		}
	}
}

// compileBoot compiles the program that the SDK's container runs.
func compileBoot(t *testing.T) string {
	t.Helper()
	file := cached(t, "bin", "go-container-boot")
	build := exec.Command("go", "build", "-o", file, beamModule+"/go/container")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // a container may have no libraries
	out, err := build.CombinedOutput()
	if err != nil {
		t.Fatalf("compile the boot program: %v\n%s", err, out)
	}
	return file
}

// removeLeftovers removes in the end what a boot program and its worker leave
// in their container, at places that nobody can choose.
func removeLeftovers(t *testing.T, worker string) {
	t.Helper()
	is, err := os.Stat(worker)
	if err != nil {
		t.Fatal(err)
	}
	before, _ := filepath.Glob("/tmp/bin*/worker")
	t.Cleanup(func() {
		for _, name := range []string{"/tmp/hProf", "/tmp/hProf.tmp"} {
			_ = os.Remove(name)
		}
		copies, _ := filepath.Glob("/tmp/bin*/worker")
		for _, name := range copies {
			one, err := os.Stat(name)
			if err == nil && one.Size() == is.Size() && !slices.Contains(before, name) {
				_ = os.RemoveAll(filepath.Dir(name))
			}
		}
	})
}

// A testBucket is as much of Google's object store as the SDK needs: whoever
// knows its address can write an object and list all.
type testBucket struct {
	url string

	mu      sync.Mutex
	objects map[string]string // content by name
}

func serveBucket(t *testing.T) *testBucket {
	t.Helper()
	b := &testBucket{objects: map[string]string{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /storage/v1/b/bucket/o", b.list)
	mux.HandleFunc("POST /upload/storage/v1/b/bucket/o", b.write)
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	b.url = s.URL
	return b
}

type testObject struct {
	Kind   string `json:"kind"`
	Bucket string `json:"bucket"`
	Name   string `json:"name"`
}

func (b *testBucket) list(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	items := []testObject{}
	for name := range b.objects {
		if strings.HasPrefix(name, r.URL.Query().Get("prefix")) {
			items = append(items, testObject{Kind: "storage#object", Bucket: "bucket", Name: name})
		}
	}
	answerJSON(w, map[string]any{"kind": "storage#objects", "items": items})
}

// write takes a description and a content in one message.
func (b *testBucket) write(w http.ResponseWriter, r *http.Request) {
	name, content, err := readUpload(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.objects[name] = content
	answerJSON(w, testObject{Kind: "storage#object", Bucket: "bucket", Name: name})
}

func readUpload(r *http.Request) (name, content string, err error) {
	_, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil {
		return "", "", err
	}
	parts := multipart.NewReader(r.Body, params["boundary"])
	first, err := parts.NextPart()
	if err != nil {
		return "", "", err
	}
	var is testObject
	if err := json.NewDecoder(first).Decode(&is); err != nil {
		return "", "", err
	}
	second, err := parts.NextPart()
	if err != nil {
		return "", "", err
	}
	all, err := io.ReadAll(second)
	return is.Name, string(all), err
}

func answerJSON(w http.ResponseWriter, what any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(what)
}
