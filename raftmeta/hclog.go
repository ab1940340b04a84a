package raftmeta

import (
	"context"
	"log/slog"

	"github.com/hashicorp/go-hclog"
)

// raftLog gives Raft's log lines to slog. What Raft calls information is about
// its own workings.
type raftLog struct {
	hclog.Logger // answers the rest
	to           *slog.Logger
}

func newRaftLog(to *slog.Logger) *raftLog { return &raftLog{hclog.NewNullLogger(), to} }

func (l *raftLog) Log(level hclog.Level, msg string, args ...any) {
	as := slog.LevelDebug
	switch level {
	case hclog.Warn:
		as = slog.LevelWarn
	case hclog.Error: // it says so of every peer that is down
		as = slog.LevelWarn
	}
	l.to.Log(context.Background(), as, "raft: "+msg, args...)
}

func (l *raftLog) Trace(string, ...any)           {}
func (l *raftLog) Debug(msg string, args ...any)  { l.Log(hclog.Debug, msg, args...) }
func (l *raftLog) Info(msg string, args ...any)   { l.Log(hclog.Info, msg, args...) }
func (l *raftLog) Warn(msg string, args ...any)   { l.Log(hclog.Warn, msg, args...) }
func (l *raftLog) Error(msg string, args ...any)  { l.Log(hclog.Error, msg, args...) }
func (l *raftLog) With(args ...any) hclog.Logger  { return newRaftLog(l.to.With(args...)) }
func (l *raftLog) Named(string) hclog.Logger      { return l }
func (l *raftLog) ResetNamed(string) hclog.Logger { return l }
