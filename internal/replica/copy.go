package replica

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"time"

	"trestle/internal/cluster"
)

// A Member is another JobManager of the group.
type Member struct {
	Name string
	Addr string // of its Server of package cluster
}

// A Replicator copies files between this JobManager's stores and those of the
// rest of its group. It is safe for concurrent use.
type Replicator struct {
	shelves Shelves
	peers   *cluster.Peers
	others  func() []Member
}

// New returns a Replicator. Others tells who is in the group beside this
// process, now; those who are likely to have what is missing here, such as the
// leader, come first.
func New(shelves Shelves, peers *cluster.Peers, others func() []Member) *Replicator {
	return &Replicator{shelves: shelves, peers: peers, others: others}
}

const (
	// linger is how long those who are slower than the majority may take.
	linger = 2 * time.Second
	// rounds is how often a member that lost a file meanwhile gets it again.
	rounds = 3
	// syncTime is how long a member may take to bring all files to its disk.
	syncTime = 2 * time.Minute
)

// Copy makes the items, which are here, the job's on all members that can be
// reached. It succeeds when a majority of the group, this process included, has
// all of them on stable storage.
func (r *Replicator) Copy(ctx context.Context, job string, items ...Item) error {
	missing, err := r.shelves.adopt(job, items)
	if err != nil {
		return fmt.Errorf("keep what job %s needs: %w", job, err)
	}
	if len(missing) > 0 {
		return fmt.Errorf("keep what job %s needs: %v is not here: %w", job, missing[0], fs.ErrNotExist)
	}
	others := r.others()
	needed := (len(others) + 1) / 2 // a majority with this process
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	results := make(chan error, len(others))
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, m := range others {
		wg.Go(func() {
			err := r.copyTo(ctx, m, job, items)
			if err != nil {
				err = fmt.Errorf("%s: %w", m.Name, err)
			}
			results <- err
		})
	}
	return await(results, len(others), needed, cancel)
}

// await takes all results. Once enough of them are good, the rest have a little
// while.
func await(results <-chan error, all, needed int, cancel func()) error {
	var failed []error
	good := 0
	var late *time.Timer
	for range all {
		if good >= needed && late == nil {
			late = time.AfterFunc(linger, cancel)
			defer late.Stop()
		}
		if err := <-results; err != nil {
			failed = append(failed, err)
			continue
		}
		good++
	}
	if good < needed {
		return fmt.Errorf("copy to a majority of the JobManagers: %d of %d others have all files: %w", good, all, errors.Join(failed...))
	}
	return nil
}

// copyTo makes the items the job's on one member.
func (r *Replicator) copyTo(ctx context.Context, m Member, job string, items []Item) error {
	to := r.peers.ToJobManager(m.Addr)
	for round := 0; ; round++ {
		answer, err := adopt(ctx, to, job, items)
		if err != nil {
			return err
		}
		if len(answer.Missing) == 0 {
			return nil
		}
		if round == rounds {
			return fmt.Errorf("it doesn't keep %v", answer.Missing[0])
		}
		wanted := map[Item]bool{}
		for _, i := range items {
			wanted[i] = true
		}
		for _, i := range answer.Missing {
			if !wanted[i] {
				return fmt.Errorf("it wants %.100s, which the job doesn't need", i)
			}
			if err := r.put(ctx, to, job, i); err != nil {
				return err
			}
		}
	}
}

func adopt(ctx context.Context, to *cluster.Conn, job string, items []Item) (*adoptAnswer, error) {
	ctx, cancel := context.WithTimeout(ctx, syncTime)
	defer cancel()
	return adoptCall.Do(ctx, to, &adoptRequest{Job: job, Items: items})
}

func (r *Replicator) put(ctx context.Context, to *cluster.Conn, job string, item Item) error {
	from, err := r.shelves[item.Kind].Open(item.Hash)
	if err != nil {
		return fmt.Errorf("open %v: %w", item, err)
	}
	defer from.Close() // it was only read
	return putTo(ctx, to, job, item, from)
}

// Fetch makes the items the job's here, and gets what is missing from the
// others. Items that nobody has are fs.ErrNotExist.
func (r *Replicator) Fetch(ctx context.Context, job string, items ...Item) error {
	for round := 0; ; round++ {
		missing, err := r.shelves.adopt(job, items)
		if err != nil {
			return fmt.Errorf("keep what job %s needs: %w", job, err)
		}
		if len(missing) == 0 {
			return nil
		}
		if round == rounds {
			return fmt.Errorf("%v was fetched, and is not here: %w", missing[0], fs.ErrNotExist)
		}
		for _, i := range missing {
			shelf, err := r.shelves.of(i.Kind)
			if err != nil {
				return err
			}
			err = fetch(ctx, r.peers, r.sources(), i, func() (Incoming, error) { return shelf.Receive(job) })
			if err != nil {
				return err
			}
		}
	}
}

func (r *Replicator) sources() []string {
	var addrs []string
	for _, m := range r.others() {
		addrs = append(addrs, m.Addr)
	}
	return addrs
}

// fetch gets a file from the first that gives it whole.
func fetch(ctx context.Context, peers *cluster.Peers, sources []string, item Item, receive func() (Incoming, error)) error {
	var failed []error
	nowhere := len(sources) > 0
	for _, addr := range sources {
		err := fetchFrom(ctx, peers.ToJobManager(addr), item, receive)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		nowhere = nowhere && cluster.IsKind(err, kindMissing)
		failed = append(failed, fmt.Errorf("%s: %w", addr, err))
	}
	if len(sources) == 0 {
		return fmt.Errorf("fetch %v: no JobManager is known to ask", item)
	}
	if nowhere {
		return fmt.Errorf("no JobManager of %d has %v: %w", len(sources), item, fs.ErrNotExist)
	}
	return fmt.Errorf("fetch %v: %w", item, errors.Join(failed...))
}

func fetchFrom(ctx context.Context, from *cluster.Conn, item Item, receive func() (Incoming, error)) error {
	in, err := receive()
	if err != nil {
		return err
	}
	defer in.Abort()
	if err := getFrom(ctx, from, item, in); err != nil {
		return err
	}
	return in.Commit(item.Hash)
}
