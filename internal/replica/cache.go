package replica

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"trestle/internal/cluster"
)

// A Cache is what a TaskManager has fetched: a directory of files by hash, of
// which the least recently used go when there is too much. It is safe for
// concurrent use.
//
// Several who want one file at once wait for one download, which ends when
// none of them waits any more. Blobs hold secrets: Forget them when their job
// has ended; an earlier process's are gone with NewCache.
type Cache struct {
	dir     string
	most    int64
	peers   *cluster.Peers
	sources func() []string

	mu        sync.Mutex
	files     map[Item]*cached
	bytes     int64 // of files
	downloads map[Item]*download
	running   sync.WaitGroup
	closed    bool
}

// A cached file.
type cached struct {
	size int64
	used time.Time // last
}

// A download is under way, or has ended and is being told of.
type download struct {
	done      chan struct{} // closed at the end
	err       error         // valid then
	waiting   int
	forgotten bool // by Forget: what comes is not kept
	cancel    context.CancelFunc
}

const (
	// mostFile bounds a file from outside.
	mostFile = 8 << 30
	// seek is how long a download goes on asking JobManagers that can't be
	// reached, or don't have the file yet: they may be choosing a leader.
	seek = 15 * time.Second
	// askAgain is the pause between two rounds of asking.
	askAgain = 250 * time.Millisecond
)

var errCacheClosed = errors.New("the cache is closed")

// NewCache returns the cache of a directory, which no other process may use, of
// at most so many bytes; one file may be larger. Sources tells the JobManagers'
// addresses, the leader's first.
func NewCache(dir string, most int64, peers *cluster.Peers, sources func() []string) (*Cache, error) {
	c := &Cache{
		dir: dir, most: most, peers: peers, sources: sources,
		files: map[Item]*cached{}, downloads: map[Item]*download{},
	}
	for _, gone := range []string{c.incomingDir(), c.kindDir(Blob)} {
		if err := os.RemoveAll(gone); err != nil {
			return nil, fmt.Errorf("open cache: %w", err)
		}
	}
	for _, d := range []string{c.incomingDir(), c.kindDir(Blob), c.kindDir(Artifact)} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("open cache: %w", err)
		}
	}
	left, err := os.ReadDir(c.kindDir(Artifact))
	if err != nil {
		return nil, fmt.Errorf("open cache: %w", err)
	}
	for _, e := range left {
		info, err := e.Info()
		if err != nil {
			return nil, fmt.Errorf("open cache: %w", err)
		}
		c.add(Item{Artifact, e.Name()}, info.Size(), info.ModTime())
	}
	c.shrink(Item{})
	return c, nil
}

func (c *Cache) incomingDir() string      { return filepath.Join(c.dir, "incoming") }
func (c *Cache) kindDir(kind Kind) string { return filepath.Join(c.dir, string(kind)) }
func (c *Cache) path(i Item) string       { return filepath.Join(c.kindDir(i.Kind), i.Hash) }

// Close ends what is under way.
func (c *Cache) Close() {
	c.mu.Lock()
	c.closed = true
	for _, d := range c.downloads {
		d.cancel()
	}
	c.mu.Unlock()
	c.running.Wait()
}

// Open returns a file's content, which is fetched if need be. It reads to io.EOF
// only if every byte is as its hash says. A file that no JobManager has is
// fs.ErrNotExist.
func (c *Cache) Open(ctx context.Context, item Item) (io.ReadCloser, error) {
	if !isHash(item.Hash) || item.Kind != Blob && item.Kind != Artifact {
		return nil, fmt.Errorf("%.100q is no file's name: %w", item.String(), fs.ErrNotExist)
	}
	if item.Hash == emptyHash {
		return io.NopCloser(strings.NewReader("")), nil
	}
	for {
		f, d, err := c.have(ctx, item)
		if f != nil || err != nil {
			return f, err
		}
		select {
		case <-d.done:
			if again := c.leave(item, d); d.err != nil && !again {
				return nil, d.err
			}
			// It is there now, unless others have crowded it out already, or it was
			// forgotten for the sake of another job.
		case <-ctx.Done():
			c.leave(item, d)
			return nil, context.Cause(ctx)
		}
	}
}

// Get returns a blob whole.
func (c *Cache) Get(ctx context.Context, hash string) ([]byte, error) {
	r, err := c.Open(ctx, Item{Blob, hash})
	if err != nil {
		return nil, err
	}
	defer r.Close() // it was only read
	return io.ReadAll(r)
}

// Forget removes files that nobody needs any more. Those that are being read
// can be read to their end.
func (c *Cache) Forget(items ...Item) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, i := range items {
		c.remove(i)
		if d := c.downloads[i]; d != nil {
			d.forgotten = true
			d.cancel()
			delete(c.downloads, i)
		}
	}
}

// have opens a file that is here, or else joins its download, which it starts
// if nobody has.
func (c *Cache) have(ctx context.Context, item Item) (io.ReadCloser, *download, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if known := c.files[item]; known != nil {
		f, err := os.Open(c.path(item))
		if err == nil {
			known.used = time.Now()
			return &checked{file: f, cache: c, item: item, hash: sha256.New()}, nil, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, nil, err
		}
		c.remove(item) // somebody tidied up behind our back
	}
	if c.closed {
		return nil, nil, errCacheClosed
	}
	d := c.downloads[item]
	if d == nil {
		// It belongs to all who wait for it, and ends with the last of them.
		ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		d = &download{done: make(chan struct{}), cancel: cancel}
		c.downloads[item] = d
		c.running.Go(func() { c.run(ctx, item, d) })
	}
	d.waiting++
	return nil, d, nil
}

// leave is for those who wait no more. It reports whether the download was given
// up for no fault of its own.
func (c *Cache) leave(item Item, d *download) (forgotten bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if d.waiting--; d.waiting == 0 {
		d.cancel()
		if c.downloads[item] == d {
			delete(c.downloads, item) // the next who comes begins anew
		}
	}
	return d.forgotten
}

// run is a download.
func (c *Cache) run(ctx context.Context, item Item, d *download) {
	defer d.cancel()
	defer close(d.done)
	d.err = c.download(ctx, item)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.downloads[item] == d {
		delete(c.downloads, item)
	}
}

// download fetches a file, asking again for a while.
func (c *Cache) download(ctx context.Context, item Item) error {
	until := time.Now().Add(seek)
	for {
		err := fetch(ctx, c.peers, c.sources(), item, func() (Incoming, error) { return c.receive(ctx, item) })
		if err == nil || ctx.Err() != nil || time.Now().After(until) {
			return err
		}
		select {
		case <-time.After(askAgain):
		case <-ctx.Done():
			return err
		}
	}
}

// add counts a file. (c.mu is held, or nobody else is here.)
func (c *Cache) add(item Item, size int64, used time.Time) {
	if old := c.files[item]; old != nil {
		c.bytes -= old.size
	}
	c.files[item] = &cached{size: size, used: used}
	c.bytes += size
}

// remove removes a file. (c.mu is held.)
func (c *Cache) remove(item Item) {
	if f := c.files[item]; f != nil {
		c.bytes -= f.size
		delete(c.files, item)
		_ = os.Remove(c.path(item)) // if it stays, it is found by the next NewCache
	}
}

// shrink removes what was used least recently while there is too much, but for
// one file. (c.mu is held, or nobody else is here.)
func (c *Cache) shrink(but Item) {
	if c.bytes <= c.most {
		return
	}
	items := make([]Item, 0, len(c.files))
	for i := range c.files {
		if i != but {
			items = append(items, i)
		}
	}
	slices.SortFunc(items, func(a, b Item) int { return c.files[a].used.Compare(c.files[b].used) })
	for _, i := range items {
		if c.bytes <= c.most {
			return
		}
		c.remove(i)
	}
}

// receive starts a file of the cache. It is kept only while ctx holds.
func (c *Cache) receive(ctx context.Context, item Item) (Incoming, error) {
	f, err := os.CreateTemp(c.incomingDir(), "file-") // 0600
	if err != nil {
		return nil, err
	}
	return &incoming{ctx: ctx, cache: c, item: item, file: f, hash: sha256.New()}, nil
}

// An incoming file of a cache.
type incoming struct {
	ctx   context.Context // of its download
	cache *Cache
	item  Item
	file  *os.File // nil after the end
	hash  hash.Hash
	size  int64
}

func (in *incoming) Write(p []byte) (int, error) {
	if in.size += int64(len(p)); in.size > mostFile {
		return 0, fmt.Errorf("%v has more than %d bytes", in.item, int64(mostFile))
	}
	_, _ = in.hash.Write(p) // a hash takes all
	return in.file.Write(p)
}

// Commit needs no sync: what is damaged is noticed when it is read, and fetched
// again.
func (in *incoming) Commit(want string) error {
	defer in.Abort()
	if got := hex.EncodeToString(in.hash.Sum(nil)); got != want {
		return fmt.Errorf("the %d bytes received have SHA-256 %s, not %s", in.size, got, want)
	}
	name := in.file.Name()
	if err := in.file.Close(); err != nil {
		return err
	}
	c := in.cache
	c.mu.Lock()
	defer c.mu.Unlock()
	if in.ctx.Err() != nil { // Forget may have been called, which cancels with this lock held
		return context.Cause(in.ctx)
	}
	if err := os.Rename(name, c.path(in.item)); err != nil {
		return err
	}
	in.file = nil
	c.add(in.item, in.size, time.Now())
	c.shrink(in.item)
	return nil
}

func (in *incoming) Abort() {
	if in.file != nil {
		_ = in.file.Close() // perhaps again; nothing in it counts
		_ = os.Remove(in.file.Name())
		in.file = nil
	}
}

// A checked file is hashed while it is read.
type checked struct {
	file  *os.File
	cache *Cache
	item  Item
	hash  hash.Hash
}

func (f *checked) Read(p []byte) (int, error) {
	n, err := f.file.Read(p)
	_, _ = f.hash.Write(p[:n]) // a hash takes all
	if err == io.EOF && hex.EncodeToString(f.hash.Sum(nil)) != f.item.Hash {
		f.cache.Forget(f.item) // so that the next one fetches it anew
		return n, fmt.Errorf("%v is damaged on disk", f.item)
	}
	return n, err
}

func (f *checked) Close() error { return f.file.Close() }

// emptyHash is that of the empty file, which stores don't keep.
const emptyHash = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

// isHash keeps names from outside from becoming paths.
func isHash(s string) bool {
	return len(s) == 2*sha256.Size && strings.Trim(s, "0123456789abcdef") == ""
}
