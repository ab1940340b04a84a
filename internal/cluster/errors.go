package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// An Error is what a handler answers instead of a result. Handlers may return
// any error; an *Error keeps its Kind and Detail on the way.
type Error struct {
	Kind   string // for programs: a word that both ends know; "" means nothing in particular
	Detail string // for programs: what goes with the kind, such as an address
	Text   string // for people
	Peer   string // who said it; set where it is received
}

func (e *Error) Error() string {
	if e.Peer == "" {
		return e.Text
	}
	return e.Peer + ": " + e.Text
}

// Kinds that this package itself answers with.
const (
	KindPanic     = "panic"     // the handler panicked
	KindUnknown   = "unknown"   // the peer has no such method
	KindForbidden = "forbidden" // the caller's certificate is for other things
)

// IsKind reports whether err is an *Error of that kind.
func IsKind(err error, kind string) bool {
	e := (*Error)(nil)
	return errors.As(err, &e) && e.Kind == kind
}

// An UnreachableError is a peer that can't be talked to, now or any more. What
// was asked of it may have been done.
type UnreachableError struct {
	Peer   string
	Reason string
}

func (e *UnreachableError) Error() string {
	return fmt.Sprintf("reach %s: %s", e.Peer, e.Reason)
}

// IsUnreachable reports whether err says that a peer can't be talked to.
func IsUnreachable(err error) bool {
	e := (*UnreachableError)(nil)
	return errors.As(err, &e)
}

// statusOf is a handler's error as gRPC carries it.
func statusOf(err error) error {
	if err == nil {
		return nil
	}
	switch {
	case errors.Is(err, context.Canceled):
		return status.Error(codes.Canceled, err.Error())
	case errors.Is(err, context.DeadlineExceeded):
		return status.Error(codes.DeadlineExceeded, err.Error())
	}
	e := (*Error)(nil)
	if !errors.As(err, &e) {
		return status.Error(codes.Unknown, cutText(err.Error()))
	}
	s := status.New(codes.Aborted, cutText(err.Error()))
	about, jsonErr := json.Marshal(&Error{Kind: e.Kind, Detail: e.Detail})
	if jsonErr == nil {
		if with, err := s.WithDetails(wrapperspb.Bytes(about)); err == nil {
			s = with
		}
	}
	return s.Err()
}

// maxErrorText keeps errors small enough for the headers that they travel in.
const maxErrorText = 4 << 10

func cutText(s string) string {
	if len(s) > maxErrorText {
		s = s[:maxErrorText] + " […]"
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

// received is gRPC's error as a caller sees it.
func received(peer string, err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	s, ok := status.FromError(err)
	if !ok {
		return fmt.Errorf("call %s: %w", peer, err)
	}
	switch s.Code() {
	case codes.Canceled:
		return fmt.Errorf("call %s: %w", peer, context.Canceled)
	case codes.DeadlineExceeded:
		return fmt.Errorf("call %s: %w", peer, context.DeadlineExceeded)
	case codes.Unavailable:
		return &UnreachableError{Peer: peer, Reason: reason(s.Message())}
	case codes.Unimplemented:
		return &Error{Kind: KindUnknown, Text: s.Message(), Peer: peer}
	}
	e := &Error{Text: s.Message(), Peer: peer}
	for _, d := range s.Details() {
		if about, ok := d.(*wrapperspb.BytesValue); ok {
			// Garbage leaves the kind empty, which is always a valid one.
			_ = json.Unmarshal(about.GetValue(), e)
			e.Text, e.Peer = s.Message(), peer
		}
	}
	return e
}

// reason takes the core out of gRPC's nested descriptions.
func reason(message string) string {
	if i := strings.LastIndex(message, "desc = "); i >= 0 {
		if inner, err := strconv.Unquote(message[i+len("desc = "):]); err == nil {
			message = inner
		}
	}
	return strings.TrimPrefix(message, "transport: ")
}
