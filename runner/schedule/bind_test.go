package schedule

import (
	"trestle/raftmeta/catalog"
	"trestle/runner/jobgraph"

	"github.com/cockroachdb/datadriven"
)

// bind tells what a source holds, or that nobody knows.
func (w *world) bind(d *datadriven.TestData, job string) {
	id, stage, text := catalog.JobID(job), jobgraph.StageID(d.CmdArgs[1].Key), d.CmdArgs[2].Key
	if d.Cmd == "unbind" {
		w.seen.Unbound(id, stage, catalog.Failure{Kind: catalog.FailureSource, At: w.now, Message: text})
		return
	}
	w.seen.Bound(&catalog.InputBound{Job: id, Stage: stage, At: w.now, Bounds: []byte(text)})
}
