package itests

import (
	"bytes"
	"context"
	byteorder "encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// listeners are the addresses that a process of this machine listens on.
func listeners(t *testing.T, pid int) []string {
	t.Helper()
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		t.Fatal(err)
	}
	sockets := map[string]bool{} // inodes
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err == nil && strings.HasPrefix(to, "socket:[") {
			sockets[strings.Trim(to, "socket:[]")] = true
		}
	}
	table, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		t.Skip("only Linux tells who listens")
	}
	var all []string
	for _, line := range strings.Split(string(table), "\n")[1:] {
		f := strings.Fields(line)
		if len(f) < 10 || f[3] != "0A" || !sockets[f[9]] {
			continue
		}
		address, port, _ := strings.Cut(f[1], ":")
		ip, err1 := strconv.ParseUint(address, 16, 32)
		n, err2 := strconv.ParseUint(port, 16, 16)
		if err1 != nil || err2 != nil {
			t.Fatalf("/proc/net/tcp: %q", line)
		}
		b := byteorder.LittleEndian.AppendUint32(nil, uint32(ip))
		all = append(all, net.JoinHostPort(net.IP(b).String(), fmt.Sprint(n)))
	}
	slices.Sort(all)
	return all
}

const http2Preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// frame is an HTTP/2 frame with a length that may be a lie.
func frame(length int, kind, flags byte, stream uint32, payload string) string {
	b := []byte{byte(length >> 16), byte(length >> 8), byte(length), kind, flags}
	return string(byteorder.BigEndian.AppendUint32(b, stream)) + payload
}

// openings are what a hostile or broken peer may begin with.
func openings() map[string]string {
	random := rand.New(rand.NewPCG(3, 4))
	noise := make([]byte, 64<<10)
	for i := range noise {
		noise[i] = byte(random.Uint32())
	}
	settings := frame(0, 4, 0, 0, "")
	return map[string]string{
		"nothing":              "",
		"noise":                string(noise),
		"tls":                  "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + string(noise[:508]),
		"half a request":       "GET /api/v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\n",
		"endless header":       "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + strings.Repeat("x", 4<<20),
		"half a preface":       http2Preface[:10],
		"preface alone":        http2Preface,
		"noise as frames":      http2Preface + settings + string(noise),
		"huge frame":           http2Preface + settings + frame(1<<24-1, 0, 0, 1, "short"),
		"data without headers": http2Preface + settings + frame(5, 0, 0, 7, "hello"),
		"broken headers":       http2Preface + settings + frame(8, 1, 4, 1, "\xff\xff\xff\xff\xff\xff\xff\xff"),
		"window of nothing":    http2Preface + settings + strings.Repeat(frame(4, 8, 0, 0, "\x7f\xff\xff\xff"), 3),
		"endless pings":        http2Preface + settings + strings.Repeat(frame(8, 6, 0, 0, "pingping"), 20_000),
		"endless settings":     http2Preface + strings.Repeat(settings, 20_000),
		"resets":               http2Preface + settings + strings.Repeat(frame(4, 3, 0, 1, "\x00\x00\x00\x08"), 10_000),
	}
}

// TestGarbageOnPorts connects to every port of a server that runs a job, those
// for workers too, and sends what is no protocol. Some connections stay half
// open.
func TestGarbageOnPorts(t *testing.T) {
	need(t, "behaviour")
	started := launch(t, t.TempDir())
	s := started.server
	other := waitingJob(t, s, t.TempDir())
	ports := listeners(t, s.PID)
	if !slices.Contains(ports, s.Job) || !slices.Contains(ports, s.Web) || len(ports) < 4 {
		t.Fatalf("found only %v of %+v", ports, s)
	}
	for name, bytes := range openings() {
		for _, port := range ports {
			conn, err := net.DialTimeout("tcp", port, 5*time.Second)
			if err != nil {
				t.Fatalf("after %s: %v", name, err)
			}
			// To the end of the test: whoever waits for more must not keep others.
			t.Cleanup(func() { conn.Close() })
			_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
			_, _ = io.WriteString(conn, bytes) // the server may have had enough
		}
	}
	if now := listeners(t, s.PID); !slices.Equal(now, ports) {
		t.Errorf("the server listens on %v, before on %v", now, ports)
	}
	other.release()
	mustStillWork(t, s)
	started.stopCleanly(t) // though they are still connected
}

// TestGarbageToServices calls the job endpoint with messages that are none, or
// that name nothing that there is.
func TestGarbageToServices(t *testing.T) {
	need(t, "behaviour")
	s := serve(t)
	conn := dial(t, s.Job)
	for _, method := range []string{
		"JobService/Prepare", "JobService/Run", "JobService/GetJobs", "JobService/GetState", "JobService/Cancel",
		"JobService/GetPipeline", "JobService/GetJobMetrics", "JobService/GetStateStream", "JobService/GetMessageStream",
		"JobService/DescribePipelineOptions", "JobService/NoSuchMethod",
		"ArtifactStagingService/ReverseArtifactRetrievalService", "ArtifactRetrievalService/GetArtifact",
		"ArtifactRetrievalService/ResolveArtifacts", "LegacyArtifactStagingService/PutArtifact",
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		got := sendGarbage(ctx, conn, "/org.apache.beam.model.job_management.v1."+method)
		cancel()
		if code := status.Code(got); code == codes.OK || code == codes.DeadlineExceeded || code == codes.Unavailable {
			t.Errorf("%s answers garbage with %v", method, got)
		}
	}
	jobs := jobpb.NewJobServiceClient(conn)
	for _, id := range []string{"", "nobody", "../../etc/passwd", strings.Repeat("x", 1<<20), "a\x00b"} {
		_, runErr := jobs.Run(t.Context(), &jobpb.RunJobRequest{PreparationId: id})
		_, stateErr := jobs.GetState(t.Context(), &jobpb.GetJobStateRequest{JobId: id})
		_, cancelErr := jobs.Cancel(t.Context(), &jobpb.CancelJobRequest{JobId: id})
		_, drainErr := jobs.Drain(t.Context(), &jobpb.DrainJobRequest{JobId: id})
		_, pipelineErr := jobs.GetPipeline(t.Context(), &jobpb.GetJobPipelineRequest{JobId: id})
		_, metricsErr := jobs.GetJobMetrics(t.Context(), &jobpb.GetJobMetricsRequest{JobId: id})
		for _, err := range []error{runErr, stateErr, cancelErr, drainErr, pipelineErr, metricsErr} {
			if status.Code(err) != codes.NotFound || len(err.Error()) > 1000 {
				t.Errorf("job %.20q: answered %.300v, want NotFound", id, err)
			}
		}
	}
	mustStillWork(t, s)
}

// TestGarbageToWeb asks the web page for what it doesn't have.
func TestGarbageToWeb(t *testing.T) {
	need(t, "behaviour")
	s := serve(t)
	for _, path := range []string{
		"/nothing", "/jobs/nobody", "/api/v1/jobs/nobody", "/api/v1/jobs/nobody/plan", "/api/v1/jobs/nobody/metrics",
		"/api/v1/jobs/nobody/messages", "/api/v1/jobs/..%2f..%2fetc%2fpasswd", "/assets/../../../etc/passwd",
		"/api/v1/jobs/nobody/messages?wait=-1h&max=99999999999999999999&after=x", "/jobs/%00", "/jobs/" + strings.Repeat("x", 100<<10),
	} {
		resp, err := http.Get("http://" + s.Web + path)
		if err != nil {
			t.Fatalf("%.60s: %v", path, err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode < 400 || resp.StatusCode >= 500 || len(body) > 4<<10 || bytes.Contains(body, []byte("root:")) {
			t.Errorf("%.60s: %s, %v, %.200s", path, resp.Status, err, body)
		}
	}
	for _, method := range []string{http.MethodPost, http.MethodDelete, http.MethodPut} {
		req, err := http.NewRequestWithContext(t.Context(), method, "http://"+s.Web+"/api/v1/jobs", strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("%s: %s", method, resp.Status)
		}
	}
	mustStillWork(t, s)
}
