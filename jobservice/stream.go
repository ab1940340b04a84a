package jobservice

import (
	"context"
	"fmt"
	"iter"
	"sync"
	"time"

	"trestle/runner/joblog"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Terminal reports whether a job in this state has ended.
func Terminal(st jobpb.JobState_Enum) bool {
	switch st {
	case jobpb.JobState_DONE, jobpb.JobState_FAILED, jobpb.JobState_CANCELLED, jobpb.JobState_DRAINED, jobpb.JobState_UPDATED:
		return true
	}
	return false
}

// GetStateStream sends the current state at once, then every change, and ends
// with the job.
func (s *jobServer) GetStateStream(req *jobpb.GetJobStateRequest, stream jobpb.JobService_GetStateStreamServer) error {
	states, err := s.watch(stream.Context(), req.GetJobId())
	if err != nil {
		return err
	}
	for st := range states {
		if err := stream.Send(st.event()); err != nil {
			return err
		}
		if Terminal(st.State) {
			return nil
		}
	}
	return interrupted(stream.Context())
}

// watch follows a job that was run. A preparation's id serves once it was, not
// before (see preparationPrefix).
func (s *Service) watch(ctx context.Context, id string) (iter.Seq[State], error) {
	states, err := s.jobs.Watch(ctx, jobID(id))
	if err != nil {
		return nil, asStatus(id, err)
	}
	return states, nil
}

// interrupted tells why a stream ends before its job has.
func interrupted(ctx context.Context) error {
	if ctx.Err() != nil {
		return status.FromContextError(ctx.Err()).Err()
	}
	return status.Error(codes.Unavailable, "this JobManager is stopping, or has lost touch with its group: ask another")
}

// GetMessageStream sends all messages that are kept, then new ones and the
// changes of the job's state as they come, and ends with the job.
func (s *jobServer) GetMessageStream(req *jobpb.JobMessagesRequest, stream jobpb.JobService_GetMessageStreamServer) error {
	ctx, cancel := context.WithCancel(stream.Context())
	states, err := s.watch(ctx, req.GetJobId())
	if err != nil {
		cancel()
		return err
	}
	reader, err := s.messages.Open(jobID(req.GetJobId()), 0)
	if err != nil {
		cancel()
		return status.Error(codes.Unavailable, err.Error())
	}
	defer reader.Close()
	m := &messageStream{stream: stream, reader: reader}

	came := make(chan State) // closed when no more come
	var watcher sync.WaitGroup
	defer watcher.Wait()
	defer cancel()
	watcher.Go(func() {
		defer close(came)
		for st := range states {
			select {
			case came <- st:
			case <-ctx.Done():
				return
			}
		}
	})
	return m.run(stream.Context(), came)
}

// A messageStream is one client that listens to a job.
type messageStream struct {
	stream jobpb.JobService_GetMessageStreamServer
	reader *joblog.Reader
	failed bool // a message of level Failure was sent
}

// run sends the messages before the last state, because clients stop reading
// there: Go's at the state itself, and after FAILED at the first error message.
// All of them take the last error message for the reason of the failure,
// Java's the first; so a failed job's stream holds exactly one.
func (m *messageStream) run(ctx context.Context, states <-chan State) error {
	for {
		more := m.reader.Changed()
		select {
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		case st, ok := <-states:
			switch {
			case !ok:
				return interrupted(ctx)
			case Terminal(st.State):
				return m.end(st)
			}
			if err := m.state(st); err != nil {
				return err
			}
		case <-more:
			if err := m.messages(); err != nil {
				return err
			}
		}
	}
}

// end sends what is left to say, and the last state.
func (m *messageStream) end(st State) error {
	if err := m.messages(); err != nil {
		return err
	}
	if st.State == jobpb.JobState_FAILED && !m.failed {
		text := st.Error
		if text == "" {
			text = "the job failed"
		}
		if err := m.message(joblog.Entry{Time: st.Time, Level: joblog.Failure, Origin: "runner", Text: text}); err != nil {
			return err
		}
	}
	return m.state(st)
}

func (m *messageStream) state(st State) error {
	return m.stream.Send(&jobpb.JobMessagesResponse{
		Response: &jobpb.JobMessagesResponse_StateResponse{StateResponse: st.event()},
	})
}

// messages sends what the log holds now. It reads in small helpings, so that a
// slow client costs little memory.
func (m *messageStream) messages() error {
	for {
		entries, err := m.reader.Read(100)
		if err != nil {
			return status.Errorf(codes.Unavailable, "read messages: %v", err)
		}
		if len(entries) == 0 {
			return nil
		}
		for _, e := range entries {
			if err := m.message(e); err != nil {
				return err
			}
		}
	}
}

func (m *messageStream) message(e joblog.Entry) error {
	m.failed = m.failed || e.Level == joblog.Failure
	return m.stream.Send(&jobpb.JobMessagesResponse{
		Response: &jobpb.JobMessagesResponse_MessageResponse{MessageResponse: &jobpb.JobMessage{
			MessageId:   fmt.Sprint(e.N),
			Time:        e.Time.UTC().Format(time.RFC3339Nano),
			Importance:  importance(e.Level),
			MessageText: messageText(e),
		}},
	})
}

// importance keeps ERROR for why a job failed: clients show the first or the
// last message of that importance as the job's exception.
func importance(l joblog.Level) jobpb.JobMessage_MessageImportance {
	switch l {
	case joblog.Debug:
		return jobpb.JobMessage_JOB_MESSAGE_DEBUG
	case joblog.Info:
		return jobpb.JobMessage_JOB_MESSAGE_BASIC
	case joblog.Warn, joblog.Error:
		return jobpb.JobMessage_JOB_MESSAGE_WARNING
	case joblog.Failure:
		return jobpb.JobMessage_JOB_MESSAGE_ERROR
	}
	return jobpb.JobMessage_MESSAGE_IMPORTANCE_UNSPECIFIED
}

// messageText says who speaks, unless it is the job's own end.
func messageText(e joblog.Entry) string {
	text := e.Text
	if e.Level != joblog.Failure {
		if e.Transform != "" {
			text = e.Transform + ": " + text
		}
		if e.Origin != "" && e.Origin != "runner" {
			text = "[" + e.Origin + "] " + text
		}
		if e.Level == joblog.Error {
			text = "ERROR " + text
		}
	}
	if e.Missing > 0 {
		text = fmt.Sprintf("(%d messages before this one are no longer kept)\n%s", e.Missing, text)
	}
	return text
}
