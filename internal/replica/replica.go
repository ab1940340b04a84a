// Package replica brings blobs and artifacts to where they are needed, when no
// shared store does.
//
// What a job needs is written to the disk of the JobManager that took it. Before
// the job is acknowledged it is copied to the others of the group (Replicator),
// so that the log never names what a majority doesn't have: whoever leads next
// has it, or fetches it from one who has. TaskManagers fetch by hash from any
// JobManager and keep what they got for a while (Cache).
//
// Files are named by their SHA-256, and whoever receives one checks it: a
// damaged or torn file is never kept, and never given on. Content is streamed
// from disk to disk, never held in memory whole, and has a largest size. A peer
// that stops in the midst is given up after a while without progress.
//
// How long files are kept is the matter of the stores themselves; a job's files
// are the job's on every member that has them.
package replica

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"trestle/internal/blobstore"
	"trestle/internal/cluster"
	"trestle/jobservice/artifact"
)

// A Kind says which store a file belongs to.
type Kind string

// The kinds.
const (
	Blob     Kind = "blob"     // pipelines and plans, with secrets
	Artifact Kind = "artifact" // what clients have staged
)

// An Item is one file.
type Item struct {
	Kind Kind
	Hash string // its SHA-256 in hexadecimal
}

func (i Item) String() string { return string(i.Kind) + " " + i.Hash }

// Items makes items of one kind.
func Items(kind Kind, hashes ...string) []Item {
	items := make([]Item, len(hashes))
	for i, h := range hashes {
		items[i] = Item{kind, h}
	}
	return items
}

// A Shelf is a process's own store of one kind.
type Shelf interface {
	// Open streams a file; fs.ErrNotExist if it is not here.
	Open(hash string) (io.ReadCloser, error)
	// Receive starts a file that a job needs.
	Receive(job string) (Incoming, error)
	// Adopt keeps what is here of the files for the job, so that it survives the
	// loss of power, and tells which are not here.
	Adopt(job string, hashes []string) (missing []string, err error)
}

// Incoming is a file on its way in. Abort after Commit does nothing.
type Incoming interface {
	io.Writer
	Commit(hash string) error // fails if the content has another hash
	Abort()
}

// Shelves are the stores of a process by kind.
type Shelves map[Kind]Shelf

// ShelvesOf are those of a JobManager. Blobs are given out from where they are;
// what is in an object store is nobody's copy, and only a *blobstore.Dir takes
// copies in.
func ShelvesOf(blobs blobstore.Store, artifacts *artifact.Store) Shelves {
	s := Shelves{Artifact: artifactShelf{artifacts}}
	switch blobs := blobs.(type) {
	case *blobstore.Dir:
		s[Blob] = blobShelf{blobs}
	case *blobstore.Bucket:
		s[Blob] = bucketShelf{blobs}
	}
	return s
}

// of is the shelf of a kind that came from outside.
func (s Shelves) of(kind Kind) (Shelf, error) {
	if shelf := s[kind]; shelf != nil {
		return shelf, nil
	}
	return nil, fmt.Errorf("no files of kind %.40q are kept here", string(kind))
}

// adopt adopts items of several kinds.
func (s Shelves) adopt(job string, items []Item) (missing []Item, err error) {
	byKind := map[Kind][]string{}
	for _, i := range items {
		byKind[i.Kind] = append(byKind[i.Kind], i.Hash)
	}
	for kind, hashes := range byKind {
		shelf, err := s.of(kind)
		if err != nil {
			return nil, err
		}
		without, err := shelf.Adopt(job, hashes)
		if err != nil {
			return nil, err
		}
		missing = append(missing, Items(kind, without...)...)
	}
	return missing, nil
}

// mostBlob bounds a blob that comes from another process.
const mostBlob = 1 << 30

type blobShelf struct{ dir *blobstore.Dir }

func (s blobShelf) Open(hash string) (io.ReadCloser, error) {
	r, err := s.dir.Open(hash)
	if errors.Is(err, blobstore.ErrNotFound) {
		return nil, fs.ErrNotExist
	}
	return r, err
}

func (s blobShelf) Receive(string) (Incoming, error) {
	in, err := s.dir.Receive(mostBlob)
	if err != nil {
		return nil, err
	}
	return in, nil
}

// Adopt needs no job: the catalog knows whose blobs they are, and until it does
// their youth protects them.
func (s blobShelf) Adopt(_ string, hashes []string) (missing []string, err error) {
	for _, h := range hashes {
		has, err := s.dir.Renew(h)
		if err != nil {
			return nil, err
		}
		if !has {
			missing = append(missing, h)
		}
	}
	return missing, nil
}

// A bucketShelf gives out blobs of an object store, to those who have no way to
// it.
type bucketShelf struct{ bucket *blobstore.Bucket }

func (s bucketShelf) Open(hash string) (io.ReadCloser, error) {
	r, err := s.bucket.Open(hash)
	if errors.Is(err, blobstore.ErrNotFound) {
		return nil, fs.ErrNotExist
	}
	return r, err
}

func (s bucketShelf) Receive(string) (Incoming, error) {
	return nil, errors.New("blobs are in an object store here, which takes no copies")
}

func (s bucketShelf) Adopt(_ string, hashes []string) (missing []string, err error) {
	for _, h := range hashes {
		has, err := s.bucket.Has(context.Background(), h)
		if err != nil {
			return nil, err
		}
		if !has {
			missing = append(missing, h)
		}
	}
	return missing, nil
}

type artifactShelf struct{ store *artifact.Store }

func (s artifactShelf) Open(hash string) (io.ReadCloser, error) {
	r, err := s.store.Open(hash)
	if errors.Is(err, artifact.ErrNotFound) {
		return nil, fs.ErrNotExist
	}
	return r, err
}

func (s artifactShelf) Receive(job string) (Incoming, error) {
	in, err := s.store.Receive(job)
	if err != nil {
		return nil, err
	}
	return incomingArtifact{in}, nil
}

func (s artifactShelf) Adopt(job string, hashes []string) ([]string, error) {
	return s.store.Adopt(job, hashes...)
}

type incomingArtifact struct{ *artifact.Incoming }

func (in incomingArtifact) Commit(hash string) error {
	_, err := in.Incoming.Commit(hash)
	return err
}

const (
	// pieceBytes is how much of a file travels in one message.
	pieceBytes = 256 << 10
	// storing is how long it may take to bring a whole file to its disk.
	storing = time.Minute
)

// stalled is how long a peer may make no progress. (Tests have less patience.)
var stalled = 5 * time.Second

var errStalled = errors.New("no progress for too long")

// progressing gives a context that ends if alive, which says how long it may
// take from now on, isn't called in time.
func progressing(ctx context.Context) (_ context.Context, alive func(time.Duration), stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	watch := time.AfterFunc(stalled, func() { cancel(errStalled) })
	return ctx, func(d time.Duration) { watch.Reset(d) }, func() { watch.Stop(); cancel(nil) }
}

// kindMissing is the kind of error of a peer that hasn't got a file.
const kindMissing = "file-missing"

// missing tells that an error says that a file isn't where it was asked for.
func missing(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || cluster.IsKind(err, kindMissing)
}
