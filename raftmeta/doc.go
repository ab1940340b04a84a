// Package raftmeta keeps the decisions about jobs, so that they survive the
// process that made them.
//
// A decision is a record (package catalog) appended to a log. It holds once
// Append has returned nil; before that, or after an error, it may hold or be
// lost, and the caller must be ready for either. Elements, state and shuffle
// data are never in the log: it grows with decisions, not with data.
//
// Log is a group of one: a file on the local disk. Appends that come at the
// same time share one write and one sync, a batch. After a crash the log holds
// whole batches: the one that was being written is there entirely or not at
// all. Any other damage is an error that names the file and the place: a log
// is never silently shorter than what was acknowledged.
//
// What records mean is package catalog's; when they are made, package
// schedule's.
package raftmeta
