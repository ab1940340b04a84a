package node

import (
	"context"
	"io"
	"strings"
	"time"

	"trestle/internal/bucket"
	"trestle/internal/cluster"
	"trestle/internal/replica"
	"trestle/jobservice/artifact"
	"trestle/runner/joblog"
	"trestle/runner/remote"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

const (
	// filesMost bounds what a TaskManager keeps of the files that it has fetched.
	filesMost = 16 << 30
	// bucketWithin is how long an object store may take to answer at the start.
	bucketWithin = 30 * time.Second
)

// joinAway makes a TaskManager whose JobManagers are other processes.
func (n *Node) joinAway(cfg taskSideConfig) (err error) {
	jobManagers := strings.Split(n.cfg.JobManagers, ",")
	if n.files, err = replica.NewCache(n.path("files"), filesMost, n.peers, func() []string { return n.client.JobManagers() }); err != nil {
		return err
	}
	cfg.Artifacts, cfg.Open = fetchedFiles{n.files}, n.files.Get
	if n.cfg.ShuffleStore != "" {
		if cfg.Store, err = openBucket(context.Background(), n.cfg.ShuffleStore); err != nil {
			return err
		}
	}
	cfg.Group = func() string { return n.client.Group() }
	cfg.Peer = n.peer
	lines := remote.NewLines(cfg.Name, 0)
	n.mail = newMailbox(linesSink{lines}, "", n.log)
	if n.side, err = newTaskSide(cfg); err != nil {
		return err
	}
	// It holds secrets, and jobs of equal content don't mind to fetch it again.
	n.side.stored.drop = func(hash string) { n.files.Forget(replica.Items(replica.Blob, hash)...) }
	addr, err := advertised(n.cfg, n.ports.data)
	if err != nil {
		return err
	}
	n.client = remote.NewClient(remote.ClientConfig{
		Local:       n.side.TaskManager,
		Connections: n.peers,
		JobManagers: jobManagers,
		DataAddr:    addr,
		Memory:      int64(n.cfg.Memory),
		Version:     n.version,
		Lines:       lines,
		Log:         n.log,
	})
	n.server = cluster.NewServer(n.security, cluster.Options{Log: n.log})
	peers := []cluster.Role{cluster.TaskManager}
	n.server.HandleFor(peers, n.side.network.Methods()...)
	n.server.HandleFor(peers, n.side.TaskManager.Methods()...)
	return nil
}

// peer is the connection to another TaskManager.
func (n *Node) peer(ctx context.Context, name string) (*cluster.Conn, error) {
	addr, err := n.client.Lookup(ctx, name)
	if err != nil {
		return nil, err
	}
	return n.peers.To(addr), nil
}

// linesSink is the way to all JobManagers.
type linesSink struct{ lines *remote.Lines }

func (s linesSink) Append(job string, entries ...joblog.Entry) error {
	s.lines.Append(job, entries...)
	return nil
}

// fetchedFiles are staged files that JobManagers have.
type fetchedFiles struct{ cache *replica.Cache }

// Open opens a staged file. Its name is its hash, so the job doesn't matter.
func (f fetchedFiles) Open(ctx context.Context, _ string, a *pipepb.ArtifactInformation) (io.ReadCloser, error) {
	name, err := artifact.NameOf(a)
	if err != nil {
		return nil, err
	}
	return f.cache.Open(ctx, replica.Item{Kind: replica.Artifact, Hash: name})
}

func openBucket(ctx context.Context, url string) (*bucket.Bucket, error) {
	ctx, cancel := context.WithTimeout(ctx, bucketWithin)
	defer cancel()
	return bucket.Open(ctx, url, bucket.Options{})
}

// work runs a TaskManager for others until ctx ends. Then it takes no new
// tasks, lets what runs finish, serves what it holds until nobody has to read it
// any more, and says goodbye.
func (n *Node) work(ctx context.Context) error {
	own, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- n.client.Run(own) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	patience, cancel := context.WithTimeout(own, max(n.cfg.StopTimeout-5*time.Second, n.cfg.StopTimeout/2))
	defer cancel()
	if err := n.client.Drain(patience); err != nil {
		n.log.Warn("stopping before all tasks have ended", "err", err)
	} else if err := n.client.AwaitIdle(patience); err != nil {
		n.log.Warn("stopping before all that is kept here was read; what is needed is made again", "err", err)
	}
	if err := n.client.Leave(patience); err != nil {
		n.log.Warn("the JobManager was not told of the end", "err", err)
	}
	stop()
	return <-ended
}
