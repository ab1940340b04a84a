// Package fleet runs a Trestle of many processes, each on a host of its own,
// and breaks it in the ways that machines break.
//
// A Fleet is JobManagers, TaskManagers and a directory for each. Its processes
// are the real program, started on hosts of package netns, or of loopnet where
// there are no namespaces. What a test does to them is what happens to machines: a process is killed or stopped for a while,
// a whole host loses its power, wires are cut. What a test learns of them is
// what people can see: the REST API, the job endpoint, logs, and the disk.
//
// Close ends every process of the fleet's hosts, whoever started it, and
// removes the hosts. It is safe at any time. Data directories stay: they are in
// the directory that the fleet was given.
package fleet
