package replica

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"trestle/internal/blobstore"
	"trestle/internal/bucket"
	"trestle/internal/bucket/buckettest"
	"trestle/internal/cluster"
	"trestle/jobservice/artifact"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A node is one JobManager's stores and server.
type node struct {
	t         *testing.T
	dir       string
	blobs     *blobstore.Dir
	artifacts *artifact.Store
	shelves   Shelves
	served    *counting // what others have fetched of artifacts
	addr      string
	stop      func()
}

// counting counts the files that are opened.
type counting struct {
	Shelf
	opened atomic.Int64
	gate   chan struct{} // nil, or closed to let content through
	spoil  atomic.Bool   // gives other bytes
}

func (c *counting) Open(hash string) (io.ReadCloser, error) {
	r, err := c.Shelf.Open(hash)
	if err != nil {
		return nil, err
	}
	c.opened.Add(1)
	if c.gate != nil {
		<-c.gate
	}
	if c.spoil.Load() {
		r.Close()
		return io.NopCloser(strings.NewReader("other bytes")), nil
	}
	return r, nil
}

func newNode(t *testing.T, most int64) *node {
	t.Helper()
	n := &node{t: t, dir: t.TempDir()}
	n.open(most)
	n.serve()
	return n
}

func (n *node) open(most int64) {
	n.t.Helper()
	var err1, err2 error
	n.blobs, err1 = blobstore.Open(filepath.Join(n.dir, "blobs"))
	n.artifacts, err2 = artifact.New(filepath.Join(n.dir, "artifacts"), artifact.Options{MaxFileBytes: most})
	if err := errors.Join(err1, err2); err != nil {
		n.t.Fatal(err)
	}
	n.shelves = ShelvesOf(n.blobs, n.artifacts)
	n.served = &counting{Shelf: n.shelves[Artifact]}
	n.shelves[Artifact] = n.served
}

func (n *node) serve() {
	n.t.Helper()
	security := cluster.Insecure()
	l, err := security.Listen("127.0.0.1:0", false)
	if err != nil {
		n.t.Fatal(err)
	}
	n.addr = l.Addr().String()
	srv := cluster.NewServer(security, cluster.Options{})
	srv.Handle(append(KeepMethods(n.shelves), GiveMethods(n.shelves)...)...)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := srv.Serve(ctx, l); err != nil {
			n.t.Error(err)
		}
	})
	n.stop = func() { cancel(); wg.Wait() }
	n.t.Cleanup(func() { n.stop() })
}

func peers(t *testing.T) *cluster.Peers {
	p := cluster.NewPeers(cluster.Insecure(), cluster.Options{Patience: time.Second})
	t.Cleanup(p.Close)
	return p
}

func members(nodes ...*node) func() []Member {
	return func() []Member {
		var m []Member
		for i, n := range nodes {
			m = append(m, Member{Name: fmt.Sprint("jm", i), Addr: n.addr})
		}
		return m
	}
}

// stage brings an artifact to a node, as a client does.
func (n *node) stage(job string, content []byte) Item {
	n.t.Helper()
	in, err := n.artifacts.Receive(job)
	if err != nil {
		n.t.Fatal(err)
	}
	defer in.Abort()
	if _, err := in.Write(content); err != nil {
		n.t.Fatal(err)
	}
	name, err := in.Commit("")
	if err != nil {
		n.t.Fatal(err)
	}
	return Item{Artifact, name}
}

func (n *node) put(content string) Item {
	n.t.Helper()
	h, err := n.blobs.Put(context.Background(), []byte(content))
	if err != nil {
		n.t.Fatal(err)
	}
	return Item{Blob, h[0]}
}

// wantHas checks that the files are here, also after a restart.
func (n *node) wantHas(items ...Item) {
	n.t.Helper()
	n.open(0)
	for _, i := range items {
		r, err := n.shelves[i.Kind].Open(i.Hash)
		if err != nil {
			n.t.Errorf("%v: %v", i, err)
			continue
		}
		content, err := io.ReadAll(r)
		r.Close()
		if err != nil || blobstore.HashOf(content) != i.Hash {
			n.t.Errorf("%v: %d bytes, %v", i, len(content), err)
		}
	}
}

func noise(n int) []byte {
	rng := rand.New(rand.NewPCG(1, uint64(n)))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

// What was copied is on the disks of all who could be reached, held by the job,
// and a majority is enough.
func TestCopy(t *testing.T) {
	a, b, c := newNode(t, 0), newNode(t, 0), newNode(t, 0)
	r := New(a.shelves, peers(t), members(b, c))
	items := []Item{a.put("plan"), a.stage("job", noise(3_000_000)), a.stage("job", noise(100)), {Artifact, emptyHash}}
	if err := r.Copy(context.Background(), "job", items...); err != nil {
		t.Fatal(err)
	}
	for _, n := range []*node{a, b, c} {
		n.wantHas(items...)
		if got := n.artifacts.Names("job"); len(got) != 2 {
			t.Errorf("the job holds %v", got)
		}
	}
	c.stop()
	more := a.put("another plan")
	if err := r.Copy(context.Background(), "job2", more); err != nil {
		t.Errorf("with two of three: %v", err)
	}
	b.wantHas(more)
	b.stop()
	if err := r.Copy(context.Background(), "job3", a.put("third")); err == nil || !strings.Contains(err.Error(), "jm0") {
		t.Errorf("with one of three: %v", err)
	}
	alone := New(a.shelves, peers(t), members())
	if err := alone.Copy(context.Background(), "job", items...); err != nil {
		t.Errorf("a group of one: %v", err)
	}
	if err := alone.Copy(context.Background(), "job", Item{Blob, strings.Repeat("0", 64)}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what is nowhere: %v", err)
	}
}

// A member refuses what is too large for it, or not what it should be.
func TestRefused(t *testing.T) {
	a, b := newNode(t, 0), newNode(t, 1000)
	r := New(a.shelves, peers(t), members(b))
	if err := r.Copy(context.Background(), "job", a.stage("job", noise(1_500_000))); err == nil || !strings.Contains(err.Error(), "too large") {
		t.Errorf("too large: %v", err)
	}
	small := a.stage("job", noise(500))
	a.served.spoil.Store(true)
	if err := r.Copy(context.Background(), "job", small); err == nil || !strings.Contains(err.Error(), "SHA-256") {
		t.Errorf("other bytes: %v", err)
	}
	if err := r.Copy(context.Background(), "../job", small); err == nil {
		t.Error("a job's name that is a path was taken")
	}
	p := peers(t)
	for _, i := range []Item{{"x", small.Hash}, {Artifact, "../../etc/passwd"}, {Blob, "../x"}, {}} {
		if err := getFrom(context.Background(), p.To(b.addr), i, io.Discard); err == nil {
			t.Errorf("%v was given", i)
		}
		if err := putTo(context.Background(), p.To(b.addr), "job", i, strings.NewReader("x")); err == nil {
			t.Errorf("%v was taken", i)
		}
	}
	for _, dir := range []string{"blobs", "artifacts/incoming", "artifacts/sha256"} {
		if left, _ := os.ReadDir(filepath.Join(b.dir, dir)); len(left) != 0 {
			t.Errorf("%s: left %v", dir, left)
		}
	}
}

// A member that missed a job gets its files from those who have them, past
// those who can't be reached or give something else.
func TestFetch(t *testing.T) {
	a, b, c, d := newNode(t, 0), newNode(t, 0), newNode(t, 0), newNode(t, 0)
	r := New(a.shelves, peers(t), members(b, c, d))
	content := noise(1_000_000)
	items := []Item{d.put("plan"), d.stage("job", content)}
	c.stage("job", content)
	c.served.spoil.Store(true)
	b.stop()
	if err := r.Fetch(context.Background(), "job", items...); err != nil {
		t.Fatal(err)
	}
	a.wantHas(items...)
	if got := a.artifacts.Names("job"); len(got) != 1 {
		t.Errorf("the job holds %v", got)
	}
	nobody := Item{Artifact, strings.Repeat("0", 64)}
	if err := r.Fetch(context.Background(), "job", nobody); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what nobody may have, but one wasn't asked: %v", err)
	}
	r = New(a.shelves, peers(t), members(c, d))
	if err := r.Fetch(context.Background(), "job", nobody); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what nobody has: %v", err)
	}
}

// A member that says nothing more in the midst of a file is given up, and the
// next one asked; one that takes nothing more doesn't hold up the others.
func TestSilentMember(t *testing.T) {
	was := stalled
	stalled = 100 * time.Millisecond
	t.Cleanup(func() { stalled = was })
	a, b, c := newNode(t, 0), newNode(t, 0), newNode(t, 0)
	b.served.gate = make(chan struct{})
	content := noise(1_000_000)
	item := b.stage("job", content)
	c.stage("job", content)
	r := New(a.shelves, peers(t), members(b, c))
	if err := r.Fetch(context.Background(), "job", item); err != nil {
		t.Error(err)
	}
	close(b.served.gate)
	a.wantHas(item)

	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	with := New(a.shelves, peers(t), func() []Member {
		return append(members(c)(), Member{Name: "silent", Addr: silent.Addr().String()})
	})
	if err := with.Copy(context.Background(), "job2", item); err != nil {
		t.Error(err)
	}
	if got := c.artifacts.Names("job2"); len(got) != 1 {
		t.Errorf("the job holds %v", got)
	}
}

func newCache(t *testing.T, dir string, most int64, nodes ...*node) *Cache {
	t.Helper()
	c, err := NewCache(dir, most, peers(t), func() []string {
		var addrs []string
		for _, n := range nodes {
			addrs = append(addrs, n.addr)
		}
		return addrs
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func (c *Cache) read(ctx context.Context, i Item) ([]byte, error) {
	r, err := c.Open(ctx, i)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// Many who want one file cause one download, also if the first of them goes
// away; and when all have gone, it ends.
func TestOneDownload(t *testing.T) {
	n := newNode(t, 0)
	n.served.gate = make(chan struct{})
	want := noise(700_000)
	item := n.stage("job", want)
	c := newCache(t, t.TempDir(), 1<<20, n)

	first, leave := context.WithCancel(context.Background())
	gone := make(chan error, 1)
	go func() { _, err := c.read(first, item); gone <- err }()
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if got, err := c.read(context.Background(), item); err != nil || !bytes.Equal(got, want) {
				t.Errorf("got %d bytes, %v", len(got), err)
			}
		})
	}
	await20 := func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.downloads[item] != nil && c.downloads[item].waiting == 21
	}
	for !await20() {
		time.Sleep(time.Millisecond)
	}
	leave()
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Errorf("who left got %v", err)
	}
	close(n.served.gate)
	wg.Wait()
	if n := n.served.opened.Load(); n != 1 {
		t.Errorf("%d downloads", n)
	}
}

func TestCacheGivesUpWithItsLastReader(t *testing.T) {
	n := newNode(t, 0)
	n.served.gate = make(chan struct{})
	item := n.stage("job", noise(1000))
	c := newCache(t, t.TempDir(), 1<<20, n)
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.read(ctx, item); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	close(n.served.gate)
	if got, err := c.read(context.Background(), item); err != nil || len(got) != 1000 {
		t.Errorf("the next: %d bytes, %v", len(got), err)
	}
}

// The cache stays within its bound, knows what an earlier process left but for
// secrets, notices damage and fetches anew.
func TestCache(t *testing.T) {
	dead, n := newNode(t, 0), newNode(t, 0)
	dead.stop()
	dir := t.TempDir()
	c := newCache(t, dir, 2500, dead, n)
	ctx := context.Background()
	plan := n.put("plan with secrets")
	if got, err := c.Get(ctx, plan.Hash); err != nil || string(got) != "plan with secrets" {
		t.Fatalf("%q, %v", got, err)
	}
	info, err := os.Stat(c.path(plan))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	var items []Item
	for i := range 4 {
		items = append(items, n.stage("job", noise(1000+i)))
		if got, err := c.read(ctx, items[i]); err != nil || len(got) != 1000+i {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
	}
	if left, _ := os.ReadDir(c.kindDir(Artifact)); len(left) != 2 || c.bytes > 2500 {
		t.Errorf("%d files with %d bytes", len(left), c.bytes)
	}

	before := n.served.opened.Load()
	c.Close()
	c = newCache(t, dir, 2500, dead, n)
	if _, err := os.Stat(c.path(plan)); err == nil {
		t.Error("an earlier process's secrets are there")
	}
	if got, err := c.read(ctx, items[3]); err != nil || len(got) != 1003 || n.served.opened.Load() != before {
		t.Errorf("what is there: %d bytes, %v, %d downloads", len(got), err, n.served.opened.Load()-before)
	}
	damaged := noise(1003)
	damaged[7] ^= 1
	if err := os.WriteFile(c.path(items[3]), damaged, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := c.read(ctx, items[3]); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("damaged: %v", err)
	}
	if got, err := c.read(ctx, items[3]); err != nil || !bytes.Equal(got, noise(1003)) {
		t.Errorf("fetched anew: %d bytes, %v", len(got), err)
	}

	if _, err := c.Get(ctx, plan.Hash); err != nil {
		t.Fatal(err)
	}
	c.Forget(plan)
	if _, err := os.Stat(c.path(plan)); err == nil {
		t.Error("what was forgotten is there")
	}
	if got, err := c.read(ctx, Item{Artifact, emptyHash}); err != nil || len(got) != 0 {
		t.Errorf("the empty file: %d bytes, %v", len(got), err)
	}
	if _, err := c.read(ctx, Item{Artifact, "../x"}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no hash: %v", err)
	}
}

// A plan whose job ends while it is fetched leaves nothing.
func TestForgetWhileFetching(t *testing.T) {
	n := newNode(t, 0)
	n.served.gate = make(chan struct{})
	item := n.stage("job", noise(1000))
	c := newCache(t, t.TempDir(), 1<<20, n)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { _, _ = c.read(ctx, item); close(ended) }()
	for n.served.opened.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	cancel()
	<-ended
	c.Forget(item)
	close(n.served.gate)
	c.Close()
	if _, err := os.Stat(c.path(item)); err == nil {
		t.Error("it is there")
	}
}

// What is in an object store that only JobManagers reach is given out by them;
// copies of it are not taken in.
func TestBucketShelf(t *testing.T) {
	n := &node{t: t, dir: t.TempDir()}
	n.open(1 << 20)
	objects := buckettest.Open(t, "file://"+t.TempDir(), bucket.Options{})
	blobs := blobstore.In(objects, func() (string, error) { return "group", nil })
	n.shelves = ShelvesOf(blobs, n.artifacts)
	n.serve()
	content := noise(600 << 10)
	hashes, err := blobs.Put(t.Context(), content)
	if err != nil {
		t.Fatal(err)
	}
	cache := newCache(t, t.TempDir(), 1<<20, n)
	if got, err := cache.Get(t.Context(), hashes[0]); err != nil || !bytes.Equal(got, content) {
		t.Errorf("%d bytes: %v", len(got), err)
	}
	absent := blobstore.HashOf([]byte("absent"))
	missing, err := n.shelves.adopt("job", Items(Blob, hashes[0], absent))
	if err != nil || len(missing) != 1 || missing[0].Hash != absent {
		t.Errorf("missing %v: %v", missing, err)
	}
	if _, err := n.shelves[Blob].Receive("job"); err == nil {
		t.Error("a copy is taken in")
	}
	if _, err := n.shelves[Blob].Open(absent); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("open what is not there: %v", err)
	}
}
