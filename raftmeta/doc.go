// Package raftmeta keeps the decisions about jobs, so that they survive the
// process that made them.
//
// A decision is a record (package catalog) appended to a log. It holds once
// Append has returned nil; before that, or after an error, it may hold or be
// lost, and the caller must be ready for either. Elements, state and shuffle
// data are never in the log: it grows with decisions, not with data.
//
// Node is a member of a group that keeps one log, by Raft; one node alone is a
// group of one. Its leader appends, through the Journal that Run hands to what
// leads; every node folds the log and tells its Follower. A leader that has
// lost its office may believe otherwise for a while. That is harmless: what it
// appends names its term, and has no effect in another.
//
// Damage of a node's directory is an error that names the file and the place: a
// log is never silently shorter than what was acknowledged, or other.
//
// What records mean is package catalog's; when they are made, package
// schedule's. The network, and who may call, come from outside: see Stream.
package raftmeta
