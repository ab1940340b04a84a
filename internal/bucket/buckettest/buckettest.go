// Package buckettest serves S3 to tests, well or badly.
//
// The server is a real one, by way of a proxy that a test can tell to delay,
// refuse, cut off or swallow answers. It is in the test's own process, or, with
// TRESTLE_TEST_S3=URL in the environment, one that runs elsewhere and has a
// bucket "trestle"; its credentials are then taken from the environment, too.
package buckettest

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"sync"
	"testing"
	"time"

	"trestle/internal/bucket"

	"github.com/rclone/gofakes3"
	"github.com/rclone/gofakes3/s3mem"
)

// A Fault is what becomes of a request.
type Fault struct {
	// Refuse answers with this status, and the server sees nothing.
	Refuse int
	// Swallow has the server do what is asked, and breaks the connection in
	// place of an answer.
	Swallow bool
	// Hang answers nothing until the client gives up.
	Hang bool
	// CutAfter breaks the connection after so many bytes of the answer, if it is
	// not 0.
	CutAfter int
	// Slow pauses so long before each 16 KiB of the answer.
	Slow time.Duration
	// Flip changes a bit of the answer's byte at this place, if it is not 0.
	Flip int
}

// A Server is an S3 server behind a proxy. It is safe for concurrent use.
type Server struct {
	// URL is that of a bucket, as bucket.Open takes it.
	URL string

	to     *url.URL
	client *http.Client

	mu       sync.Mutex
	fault    func(r *http.Request) Fault
	requests map[string]int
}

// New starts a server for as long as the test lasts, and gives the test's
// process the credentials for it.
func New(t testing.TB) *Server {
	t.Helper()
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	endpoint, prefix := os.Getenv("TRESTLE_TEST_S3"), ""
	if endpoint == "" {
		endpoint = serve(t)
	} else {
		prefix = "&prefix=" + rand.Text() + "/"
	}
	to, err := url.Parse(endpoint)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{MaxIdleConnsPerHost: 16}
	t.Cleanup(transport.CloseIdleConnections)
	s := &Server{to: to, client: &http.Client{Transport: transport}, requests: map[string]int{}}
	proxy := httptest.NewServer(s)
	t.Cleanup(proxy.CloseClientConnections)
	t.Cleanup(proxy.Close)
	s.URL = "s3://" + bucketName + "?region=us-east-1&use_path_style=true&endpoint=" + url.QueryEscape(proxy.URL) + prefix
	return s
}

// serve starts a server that keeps everything in memory and checks signatures.
func serve(t testing.TB) (endpoint string) {
	t.Helper()
	t.Setenv("AWS_ACCESS_KEY_ID", "test")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	backend := s3mem.New()
	if err := backend.CreateBucket(context.Background(), bucketName); err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(gofakes3.New(backend, gofakes3.WithV4Auth(map[string]string{"test": "secret"})).Server())
	t.Cleanup(s.Close)
	return s.URL
}

const bucketName = "trestle"

// Open opens the bucket for as long as the test lasts.
func (s *Server) Open(t testing.TB, opts bucket.Options) *bucket.Bucket { return Open(t, s.URL, opts) }

// Open opens a bucket for as long as the test lasts.
func Open(t testing.TB, url string, opts bucket.Options) *bucket.Bucket {
	t.Helper()
	b, err := bucket.Open(context.Background(), url, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

// Misbehave has each request suffer the fault that f names for it. With nil all
// are well again.
func (s *Server) Misbehave(f func(r *http.Request) Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = f
}

// Requests tells how many there were of each method since it was asked last.
func (s *Server) Requests() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.requests
	s.requests = map[string]int{}
	return n
}

// ServeHTTP is the proxy.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.requests[r.Method]++
	var f Fault
	if s.fault != nil {
		f = s.fault(r)
	}
	s.mu.Unlock()
	if f.Refuse != 0 {
		_, _ = io.Copy(io.Discard, r.Body) // or the client would see a broken connection
		w.WriteHeader(f.Refuse)
		return
	}
	if f.Hang {
		_, _ = io.Copy(io.Discard, r.Body) // the server notices a client that has gone only then
		<-r.Context().Done()
		return
	}
	if err := s.forward(w, r, f); err != nil {
		panic(http.ErrAbortHandler) // breaks the connection
	}
}

var errCut = errors.New("cut off")

func (s *Server) forward(w http.ResponseWriter, r *http.Request, f Fault) error {
	out := r.Clone(r.Context())
	out.URL.Scheme, out.URL.Host = s.to.Scheme, s.to.Host
	out.RequestURI = ""
	answer, err := s.client.Do(out)
	if err != nil {
		return err
	}
	defer answer.Body.Close() // it was only read
	if f.Swallow {
		return errCut
	}
	for name, values := range answer.Header {
		w.Header()[name] = values
	}
	w.WriteHeader(answer.StatusCode)
	return f.copy(w, answer.Body)
}

// copy copies an answer, as far as the fault lets it.
func (f Fault) copy(w http.ResponseWriter, from io.Reader) error {
	buf := make([]byte, 16<<10)
	for at := 0; ; {
		n, err := io.ReadFull(from, buf)
		if f.Flip >= at && f.Flip < at+n && f.Flip != 0 {
			buf[f.Flip-at] ^= 4
		}
		cut := f.CutAfter != 0 && at+n > f.CutAfter
		if cut {
			n = f.CutAfter - at
		}
		time.Sleep(f.Slow)
		if _, err := w.Write(buf[:n]); err != nil {
			return err
		}
		if cut {
			_ = http.NewResponseController(w).Flush() // so that it arrives
			return errCut
		}
		if at += n; err != nil {
			return nil //nolint:nilerr // the server's own end
		}
	}
}
