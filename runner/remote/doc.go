// Package remote lets a JobManager use TaskManagers of other processes.
//
// A Client stands beside each TaskManager, a Server in each JobManager. The
// client finds the JobManager that leads and begins a session with it; the
// server hands the session to its Dispatcher as a TaskManager like any other.
//
// Within one session, commands and reports are numbered, and arrive in order
// and once each, however often the connection breaks: what was not
// acknowledged is sent again over the next one. A broken connection is
// therefore no loss. A TaskManager is lost when there was no word from it for a
// lease's time; when it comes back, it begins a new session and tells what it
// has. So does one whose JobManager no longer leads.
//
// Several JobManagers may believe that they lead. The client remembers the
// highest term it has heard of and obeys none of a lower one, and a server
// that hears of a higher one takes no session. Terms are a group's: whoever has
// worked for one takes no other, and no lower term of the same one, until its
// process ends. What others decided about its work would be mistaken. A lower
// term of the same group is mostly one that is over; where a majority confirms
// it the log was restored from a backup, and the Client ends to begin anew.
//
// A leader may die between hearing that a task has finished and writing it
// down. The client therefore keeps the end of each task until the leader gives
// the task's slot to others, which it does only after it has written the end
// down, or until the job is released. In each new session it counts those tasks
// among the running ones and then tells their ends again, which does no harm
// where they are known.
//
// Queues are bounded. Progress finds room or is dropped; reports wait at the
// client and hold its TaskManager up; a TaskManager that doesn't keep up with
// its commands is lost. Long lists of partitions, which thousands of tasks
// share, are sent once a session.
//
// Lines of workers' logs go another way, to all JobManagers: see Lines.
package remote
