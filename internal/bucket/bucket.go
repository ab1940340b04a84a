// Package bucket opens object stores and talks to them with patience.
//
// A Bucket is one of gocloud.dev/blob's, named by a URL: s3:// for anything
// that speaks S3, file:// for a directory that several machines mount, mem://
// for tests. All of Trestle that keeps things in such stores does so through
// this package, so that the library is known in one place.
//
// Requests that fail for a reason that may pass are tried again, with growing
// pauses, a bounded number of times; a request that makes no progress for a
// while counts as failed. So an error is one of three: ErrNotFound and
// ErrExists tell about an object, an *UnreachableError that the store could not
// be asked; all others are refusals that no patience would change.
//
// Content is not looked at here. Whoever reads back bytes that must be right
// has a checksum of its own.
package bucket

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"

	"gocloud.dev/blob"
	_ "gocloud.dev/blob/fileblob" // file://
	_ "gocloud.dev/blob/memblob"  // mem://
	"gocloud.dev/blob/s3blob"
	"gocloud.dev/gcerrors"
)

var (
	// ErrNotFound is for objects that are not there.
	ErrNotFound = errors.New("no such object")
	// ErrExists is for objects that were to be new and are there already.
	ErrExists = errors.New("the object exists already")
)

// An UnreachableError says that a store could not be asked, however often it
// was tried.
type UnreachableError struct {
	What  string
	Tries int
	Err   error // of the last try
}

func (e *UnreachableError) Error() string {
	return fmt.Sprintf("object store: %s: tried %d times: %v", e.What, e.Tries, e.Err)
}

// Unwrap gives the reason.
func (e *UnreachableError) Unwrap() error { return e.Err }

// Options say how patient to be. The zero value is good.
type Options struct {
	Tries     int           // 8 if 0
	Pause     time.Duration // before the second try; doubles. 100 ms if 0
	MostPause time.Duration // 5 s if 0
	Idle      time.Duration // that a request may make no progress; 20 s if 0
}

// A Bucket is an open store. Its methods may be called from any goroutine.
type Bucket struct {
	blobs *blob.Bucket
	opts  Options
}

// An Object is one entry of a list.
type Object struct {
	Key     string
	Size    int64
	Written time.Time // by the store's clock
}

// Open opens the bucket of a URL. Options of the kind of store are in its
// query; prefix=NAME/ keeps all keys below NAME/. Credentials are never in it:
// they come from where the store's own tools take them.
func Open(ctx context.Context, bucketURL string, opts Options) (*Bucket, error) {
	u, err := url.Parse(bucketURL)
	if err != nil {
		return nil, errors.New("object store: the URL can't be read") // it might hold what should not be shown
	}
	if u.User != nil {
		return nil, fmt.Errorf("object store %s: credentials must not be in the URL", u.Redacted())
	}
	opts.Tries = cmp.Or(opts.Tries, 8)
	opts.Pause = cmp.Or(opts.Pause, 100*time.Millisecond)
	opts.MostPause = cmp.Or(opts.MostPause, 5*time.Second)
	opts.Idle = cmp.Or(opts.Idle, 20*time.Second)
	u.RawQuery = withDefaults(u).Encode()
	var blobs *blob.Bucket
	if u.Scheme == s3blob.Scheme {
		blobs, err = openS3(ctx, u, opts)
	} else {
		blobs, err = blob.OpenBucket(ctx, u.String())
	}
	if err != nil {
		return nil, fmt.Errorf("object store: %w", err)
	}
	return &Bucket{blobs: blobs, opts: opts}, nil
}

// defaults are options of stores that a URL needn't say.
var defaults = map[string]map[string]string{
	"file": {
		"create_dir":    "true",
		"dir_file_mode": "0700",
		"metadata":      "skip", // a second file for each, and nobody asks for it
		"no_tmp_dir":    "true", // or files could not be renamed to where they belong
	},
	"s3": {
		// We have checksums of our own on all that is read, and the SDK would
		// complain about every range without one.
		"response_checksum_validation": "when_required",
	},
}

func withDefaults(u *url.URL) url.Values {
	q := u.Query()
	for name, value := range defaults[u.Scheme] {
		if !q.Has(name) {
			q.Set(name, value)
		}
	}
	return q
}

// Close gives the store back. Nothing may be under way.
func (b *Bucket) Close() error { return b.blobs.Close() }

// patiently tries do until it succeeds, fails for good, or has failed too
// often. The context that do gets ends if do makes no progress for a while; it
// calls alive when it does.
func (b *Bucket) patiently(ctx context.Context, what string, idle time.Duration, do func(ctx context.Context, alive func()) error) error {
	for try := 1; ; try++ {
		err := b.once(ctx, idle, do)
		if err == nil {
			return nil
		}
		if err = b.judge(ctx, what, try, err); err != nil {
			return err
		}
		if err := b.pause(ctx, try); err != nil {
			return err
		}
	}
}

var errIdle = errors.New("no progress for too long")

func (b *Bucket) once(ctx context.Context, idle time.Duration, do func(ctx context.Context, alive func()) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watch := time.AfterFunc(idle, func() { cancel(errIdle) })
	defer watch.Stop()
	err := do(ctx, func() { watch.Reset(idle) })
	if err != nil && errors.Is(context.Cause(ctx), errIdle) {
		return errIdle // says more than that something was canceled
	}
	return err
}

// judge gives the error that a caller gets for what a try has met, or nil if
// it may pass.
func (b *Bucket) judge(ctx context.Context, what string, try int, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	// A connection that broke off before the answer is an io.EOF to the HTTP
	// client. To a reader of ours it would be the end of the content.
	if errors.Is(err, io.EOF) {
		err = errors.New(err.Error())
	}
	// A store that isn't there is no answer about an object.
	var refused interface{ ErrorCode() string }
	if errors.As(err, &refused) && refused.ErrorCode() == "NoSuchBucket" {
		return fmt.Errorf("object store: %s: there is no such bucket", what)
	}
	switch gcerrors.Code(err) {
	case gcerrors.NotFound:
		return fmt.Errorf("object store: %s: %w", what, ErrNotFound)
	case gcerrors.FailedPrecondition, gcerrors.AlreadyExists:
		return fmt.Errorf("object store: %s: %w", what, ErrExists)
	case gcerrors.PermissionDenied, gcerrors.InvalidArgument, gcerrors.Unimplemented:
		return fmt.Errorf("object store: %s: %w", what, err)
	}
	if try >= b.opts.Tries {
		return &UnreachableError{What: what, Tries: try, Err: err}
	}
	return nil
}

// pause waits before the next try.
func (b *Bucket) pause(ctx context.Context, try int) error {
	d := b.opts.MostPause
	if try < 30 {
		d = min(b.opts.Pause<<(try-1), d)
	}
	// Half of it by chance, lest all who met the same fault come back at once.
	timer := time.NewTimer(d/2 + time.Duration(float64(d/2)*chance()))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Put writes an object whole, from the start of body. Readers see the old one,
// if there is any, or the new one. With onlyNew it is ErrExists that there is
// one already, also if it is this call's own, whose answer got lost.
func (b *Bucket) Put(ctx context.Context, key string, body io.ReaderAt, size int64, onlyNew bool) error {
	return b.patiently(ctx, "put "+key, putIdle*b.opts.Idle, func(ctx context.Context, alive func()) error {
		// A section of a ReaderAt, so that large ones go up in parts, several at
		// once, without being held in memory.
		from := io.NewSectionReader(watched{body, alive}, 0, size)
		return b.blobs.Upload(ctx, key, from, &blob.WriterOptions{
			ContentType: "application/octet-stream",
			IfNotExist:  onlyNew,
		})
	})
}

// putIdle is how much longer an upload may seem idle: that it makes progress is
// seen only by what is read of it, some megabytes ahead.
const putIdle = 4

// A watched ReaderAt tells that it is read.
type watched struct {
	io.ReaderAt
	alive func()
}

func (w watched) ReadAt(p []byte, off int64) (int, error) {
	w.alive()
	return w.ReaderAt.ReadAt(p, off)
}

// Has tells whether an object is there.
func (b *Bucket) Has(ctx context.Context, key string) (bool, error) {
	err := b.patiently(ctx, "look for "+key, b.opts.Idle, func(ctx context.Context, _ func()) error {
		_, err := b.blobs.Attributes(ctx, key)
		return err
	})
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// Delete removes an object. It is fine if there is none.
func (b *Bucket) Delete(ctx context.Context, key string) error {
	err := b.patiently(ctx, "delete "+key, b.opts.Idle, func(ctx context.Context, _ func()) error {
		return b.blobs.Delete(ctx, key)
	})
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}

// List calls each for the objects whose keys begin with prefix, in the keys'
// order.
func (b *Bucket) List(ctx context.Context, prefix string, each func(Object) error) error {
	token := blob.FirstPageToken
	for token != nil {
		var page []*blob.ListObject
		err := b.patiently(ctx, "list "+prefix, b.opts.Idle, func(ctx context.Context, _ func()) error {
			objects, next, err := b.blobs.ListPage(ctx, token, listPage, &blob.ListOptions{Prefix: prefix})
			if err == nil {
				page, token = objects, next
			}
			return err
		})
		if err != nil {
			return err
		}
		for _, o := range page {
			if o.IsDir || !strings.HasPrefix(o.Key, prefix) {
				continue
			}
			if err := each(Object{Key: o.Key, Size: o.Size, Written: o.ModTime}); err != nil {
				return err
			}
		}
	}
	return nil
}

// listPage is how many objects S3 gives at once.
const listPage = 1000

// DeleteAll removes the objects whose keys begin with prefix.
func (b *Bucket) DeleteAll(ctx context.Context, prefix string) error {
	for {
		// Pages of a list that is being shortened may skip some: look again until
		// nothing is left.
		found := false
		err := b.List(ctx, prefix, func(o Object) error {
			found = true
			return b.Delete(ctx, o.Key)
		})
		if err != nil || !found {
			return err
		}
	}
}
