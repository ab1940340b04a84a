// Package sim runs the rooms that decide, package catalog's fold and package
// schedule's Decide, in a simulated world: three JobManagers on a modelled Raft
// group, TaskManagers that run modelled tasks, clients, and a network and
// machines that fail in every way we could think of.
//
// A seed fixes a run. The world is unkind for a while and then heals; after
// that every job must have ended as if nothing had happened. The checkers stand
// outside: they know the graph, what each attempt read, and what clients were
// told.
//
// What is modelled promises what the real rooms promise, and no more: Raft
// loses, delays and doubles messages and leaves it open what became of the
// entries of a leader that has lost its office (package raftmeta); commands and
// reports of one session come once and in order, and a session ends when its
// lease has run out (package runner/remote); a TaskManager obeys the greatest
// term that it has seen.
//
//	go test ./itests/sim -seeds=20000        more of them
//	go test ./itests/sim -seed=17 -tell     one of them, told
package sim
