package fnapi

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"
	"unicode/utf8"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
)

// A LogSink takes a batch of a worker's log lines, in order; the slice is valid
// during the call only. While it works, the worker's logging stream is not
// read, and SDKs drop lines rather than wait: a sink should be quick. Calls for
// one worker may overlap if the worker opens several streams. Serve returns only
// when they have.
type LogSink func(entries []LogEntry)

// A LogEntry is one line that a worker has logged.
type LogEntry struct {
	Level       slog.Level
	Time        time.Time
	Text        string // bounded, as is Trace
	Trace       string // the stack of an exception, if any
	Instruction string // the bundle, if any
	Transform   string // id in the bundle descriptor, if any
	Location    string // in the user's code
	Thread      string
}

// maxLogText bounds text and trace of one line.
const maxLogText = 64 << 10

type loggingService struct {
	fnpb.UnimplementedBeamFnLoggingServer
	server *Server
}

// Logging takes a worker's log lines until the worker ends the stream, which it
// must do soon after it was withdrawn: its last words come after it is lost.
func (svc *loggingService) Logging(stream fnpb.BeamFnLogging_LoggingServer) error {
	w, err := svc.server.caller(stream.Context())
	if err != nil {
		return err
	}
	return svc.server.holdOn(stream.Context(), w, func() error { return readLogs(stream, w.admission.Logs) })
}

func readLogs(stream fnpb.BeamFnLogging_LoggingServer, sink LogSink) error {
	var batch []LogEntry
	for {
		list, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if sink == nil || len(list.GetLogEntries()) == 0 {
			continue
		}
		batch = batch[:0]
		for _, e := range list.GetLogEntries() {
			batch = append(batch, logEntry(e))
		}
		sink(batch)
		clear(batch)
	}
}

func logEntry(e *fnpb.LogEntry) LogEntry {
	return LogEntry{
		Level:       logLevel(e.GetSeverity()),
		Time:        e.GetTimestamp().AsTime(),
		Text:        clip(e.GetMessage()),
		Trace:       clip(e.GetTrace()),
		Instruction: e.GetInstructionId(),
		Transform:   e.GetTransformId(),
		Location:    e.GetLogLocation(),
		Thread:      e.GetThread(),
	}
}

// logLevel maps Beam's seven severities in order; those between and beyond
// slog's named levels get numbers between and beyond.
func logLevel(s fnpb.LogEntry_Severity_Enum) slog.Level {
	switch s {
	case fnpb.LogEntry_Severity_TRACE:
		return slog.LevelDebug - 4
	case fnpb.LogEntry_Severity_DEBUG:
		return slog.LevelDebug
	case fnpb.LogEntry_Severity_NOTICE:
		return slog.LevelInfo + 2
	case fnpb.LogEntry_Severity_WARN:
		return slog.LevelWarn
	case fnpb.LogEntry_Severity_ERROR:
		return slog.LevelError
	case fnpb.LogEntry_Severity_CRITICAL:
		return slog.LevelError + 4
	}
	return slog.LevelInfo
}

// clip keeps the beginning of a long text, cut between characters.
func clip(s string) string {
	if len(s) <= maxLogText {
		return s
	}
	end := maxLogText
	for end > maxLogText-utf8.UTFMax && !utf8.RuneStart(s[end]) {
		end--
	}
	return fmt.Sprintf("%s… (%d bytes more)", s[:end], len(s)-end)
}
