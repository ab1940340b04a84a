package remote

import (
	"encoding/json"
	"time"

	"trestle/internal/cluster"
	"trestle/runner/jobgraph"
	"trestle/runner/task"
)

// The methods of the service.
var (
	sessionTalk = cluster.NewTalk[up, down]("taskmanagers", "Session")
	leaderCall  = cluster.NewCall[struct{}, leadership]("taskmanagers", "Leader")
	linesTalk   = cluster.NewTalk[linesUp, linesDown]("taskmanagers", "Lines")
)

// protocol is the version of the messages. Both ends must have the same.
const protocol = 3

// Kinds of refusals.
const (
	kindNotLeader = "not-leader" // the detail is the leader's address, if known
	kindOver      = "over"       // there is no such session (any more)
	kindRefused   = "refused"    // and will be again, until something is changed
)

// leadership is what a JobManager knows of who leads.
type leadership struct {
	Leads bool   `json:"leads,omitempty"` // it does itself
	Addr  string `json:"addr,omitempty"`  // of the leader, if another
	Group string `json:"group,omitempty"` // its own, which terms are counted in
	Term  uint64 `json:"term,omitempty"`
	// Members are the addresses of all JobManagers, if it leads.
	Members []string `json:"members,omitempty"`
}

// up is a message from a TaskManager. Only the first has a hello.
type up struct {
	Hello *hello `json:"hello,omitempty"`
	// Ack is the number of the last command that was obeyed.
	Ack uint64 `json:"ack,omitempty"`
	// First is the number of the first of these reports.
	First    uint64            `json:"first,omitempty"`
	Reports  []json.RawMessage `json:"reports,omitempty"` // task.Report
	Progress []*task.Progress  `json:"progress,omitempty"`
	Leave    bool              `json:"leave,omitempty"` // it ends the session for good
}

// hello begins a session, or takes up one whose connection broke.
type hello struct {
	Protocol    int    `json:"protocol"`
	Name        string `json:"name"`
	Incarnation string `json:"incarnation"`     // of the process
	Group       string `json:"group,omitempty"` // that it has worked for
	Term        uint64 `json:"term"`            // the highest heard of in it

	// Session is the one to take up. What follows is then left out.
	Session string `json:"session,omitempty"`

	Slots    int    `json:"slots,omitempty"`
	Memory   int64  `json:"memory,omitempty"`
	DataAddr string `json:"dataAddr,omitempty"`
	Version  string `json:"version,omitempty"` // of Trestle, for people
	Draining bool   `json:"draining,omitempty"`
	// ListEntries is how much of shared lists it remembers.
	ListEntries int        `json:"listEntries,omitempty"`
	Inventory   *inventory `json:"inventory,omitempty"`
}

// inventory is a task.Inventory. Partitions are encoded as in lists.
type inventory struct {
	Running []task.RunningTask `json:"running,omitempty"`
	Queues  []task.HeldQueue   `json:"queues,omitempty"`
	Held    []held             `json:"held,omitempty"`
}

type held struct {
	Job        string             `json:"job"`
	Dataset    jobgraph.DatasetID `json:"dataset"`
	Partitions []byte             `json:"partitions"`
}

// down is a message from a JobManager. Only the first has a welcome.
type down struct {
	Welcome *welcome `json:"welcome,omitempty"`
	// Ack is the number of the last report that was passed on.
	Ack uint64 `json:"ack,omitempty"`
	// First is the number of the first of these commands.
	First    uint64            `json:"first,omitempty"`
	Commands []json.RawMessage `json:"commands,omitempty"` // command
}

type welcome struct {
	Session string        `json:"session"`
	Group   string        `json:"group,omitempty"`
	Term    uint64        `json:"term"`
	Lease   time.Duration `json:"lease"`
	Members []string      `json:"members,omitempty"` // as in leadership
	// Got is the number of the last report that has arrived.
	Got uint64 `json:"got,omitempty"`
}

// A command has one field set.
type command struct {
	Piece      *piece      `json:"piece,omitempty"`
	Drop       []uint64    `json:"drop,omitempty"` // shared lists to forget
	Start      []spec      `json:"start,omitempty"`
	Cancel     []task.ID   `json:"cancel,omitempty"`
	DrainJob   string      `json:"drainJob,omitempty"`
	Release    *release    `json:"release,omitempty"`
	ReleaseJob string      `json:"releaseJob,omitempty"`
	Peers      *peerChange `json:"peers,omitempty"`
	MayLeave   bool        `json:"mayLeave,omitempty"`
}

type release struct {
	Job        string             `json:"job"`
	Dataset    jobgraph.DatasetID `json:"dataset"`
	Partitions []byte             `json:"partitions"`
}

// peerChange tells where TaskManagers serve data.
type peerChange struct {
	Set  map[string]string `json:"set,omitempty"`
	Gone []string          `json:"gone,omitempty"`
}

// spec is a task.Spec with its lists taken out.
type spec struct {
	Spec       task.Spec `json:"spec"`
	Inputs     []input   `json:"inputs,omitempty"`
	SideInputs []input   `json:"sideInputs,omitempty"`
}

type input struct {
	Input      task.Input `json:"input"`
	Partitions *ref       `json:"partitions,omitempty"`
	At         *ref       `json:"at,omitempty"`
}

// linesUp are log lines of one TaskManager; the first message has only the
// source.
type linesUp struct {
	Source  string  `json:"source,omitempty"`
	Seq     uint64  `json:"seq,omitempty"`
	Job     string  `json:"job,omitempty"`
	Entries []entry `json:"entries,omitempty"`
}

// entry is a joblog.Entry without its number, in a form that holds any.
type entry struct {
	Nanos     int64  `json:"nanos"` // of Unix time
	Level     int    `json:"level"`
	Origin    string `json:"origin,omitempty"`
	Transform string `json:"transform,omitempty"`
	Text      string `json:"text"`
}

// linesDown says how far a JobManager has them.
type linesDown struct {
	Have uint64 `json:"have"`
}

// Bounds of what is said at once and kept.
const (
	maxBatch     = 1 << 20   // bytes of reports or commands in one message, but for the last of them
	maxItem      = 32 << 20  // bytes of one report or command
	maxReports   = 1024      // reports that wait for the JobManager
	maxReportsMB = 32 << 20  // and their bytes
	maxCommands  = 200_000   // commands that wait for the TaskManager
	maxCommandMB = 256 << 20 // and their bytes
	maxMetrics   = 256 << 10 // bytes of one task's metrics
	maxMessage   = 256 << 10 // bytes of one failure's message
	maxProgress  = 10_000    // tasks whose progress waits
)
