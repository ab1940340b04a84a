// Package itests tests the whole of Trestle as its users meet it: a started
// `trestle serve`, and pipelines that stock Beam SDKs submit to it.
//
// The judges are other people's: the Go SDK's own tests compiled from its
// module, the Python SDK's PortableRunnerTest and its tests marked
// it_validatesrunner, the Java SDK's ValidatesRunner tests, word counts of all
// SDKs against a plain count of the same text. What is not expected to pass yet stands by
// name and with its reason in a list beside the tests, and a listed test that
// passes is an error, so that the lists only shrink.
//
// What a stock suite doesn't look at is in the files behaviour_*: how the whole
// bears failures, kills and hostile peers, and what it shows of its work. Their
// pipelines' functions run in this test's own program, started as a worker.
//
// What becomes of jobs when processes and machines die is in the files failover_*:
// a Trestle of many processes on hosts of its own (package fleet; network namespaces, or with
// -loopback and where there are none, loopback addresses), pipelines that
// show what was lost, doubled or done again (package jobs), and what clients hear,
// judged by porcupine.
//
// The tests run when the flag -itests says which: go, python, java, behaviour,
// failover, or several with commas. `make itest-go` and its sisters prepare what they need.
package itests
