package replica

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"trestle/internal/cluster"
)

// mostItems bounds what is asked for at once.
const mostItems = 1 << 20

type adoptRequest struct {
	Job   string
	Items []Item
}

type adoptAnswer struct{ Missing []Item }

// A putHeader is the first message of a put, as JSON; the file follows.
type putHeader struct {
	Job  string
	Item Item
}

type putAnswer struct{}

var (
	adoptCall = cluster.NewCall[adoptRequest, adoptAnswer]("replica", "Adopt")
	putTalk   = cluster.NewTalk[cluster.Frame, putAnswer]("replica", "Put")
	getTalk   = cluster.NewTalk[Item, cluster.Frame]("replica", "Get")
)

// KeepMethods take files in, from other JobManagers.
func KeepMethods(shelves Shelves) []cluster.Method {
	s := server{shelves}
	return []cluster.Method{adoptCall.Serve(s.adopt), putTalk.Serve(s.put)}
}

// GiveMethods give files out, to whoever of Trestle's processes needs them.
func GiveMethods(shelves Shelves) []cluster.Method {
	return []cluster.Method{getTalk.Serve(server{shelves}.get)}
}

type server struct{ shelves Shelves }

// adopt keeps for a job what is here, and tells what isn't.
func (s server) adopt(_ context.Context, in *adoptRequest) (*adoptAnswer, error) {
	if len(in.Items) > mostItems {
		return nil, fmt.Errorf("%d files at once are too many", len(in.Items))
	}
	missing, err := s.shelves.adopt(in.Job, in.Items)
	if err != nil {
		return nil, err
	}
	return &adoptAnswer{Missing: missing}, nil
}

// put takes a file in.
func (s server) put(_ context.Context, stream *cluster.Stream[putAnswer, cluster.Frame]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	var h putHeader
	err = json.Unmarshal(first.Bytes(), &h)
	first.Free()
	if err != nil {
		return fmt.Errorf("the header of a file can't be read: %w", err)
	}
	shelf, err := s.shelves.of(h.Item.Kind)
	if err != nil {
		return err
	}
	in, err := shelf.Receive(h.Job)
	if err != nil {
		return err
	}
	defer in.Abort()
	for {
		piece, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		_, err = in.Write(piece.Bytes())
		piece.Free()
		if err != nil {
			return err
		}
	}
	if err := in.Commit(h.Item.Hash); err != nil {
		return err
	}
	return stream.Send(&putAnswer{})
}

// get gives a file out. It isn't said how long it is: the hash tells if it is
// whole.
func (s server) get(_ context.Context, stream *cluster.Stream[cluster.Frame, Item]) error {
	item, err := stream.Recv()
	if err != nil {
		return err
	}
	shelf, err := s.shelves.of(item.Kind)
	if err != nil {
		return err
	}
	from, err := shelf.Open(item.Hash)
	if missing(err) {
		return &cluster.Error{Kind: kindMissing, Text: fmt.Sprintf("%.100s is not here", item)}
	}
	if err != nil {
		return err
	}
	defer from.Close() // it was only read
	return pieces(from, stream.Send)
}

// pieces sends a file in pieces.
func pieces(from io.Reader, send func(*cluster.Frame) error) error {
	for {
		f := cluster.NewFrame(pieceBytes)
		n, err := io.ReadFull(from, f.Bytes())
		ended := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !ended {
			f.Free()
			return err
		}
		if n == 0 {
			f.Free()
			return nil
		}
		f.Cut(n)
		if err := send(f); err != nil {
			return err
		}
		if ended {
			return nil
		}
	}
}

// putTo sends a file to a peer, which keeps it for the job.
func putTo(ctx context.Context, to *cluster.Conn, job string, item Item, from io.Reader) error {
	ctx, alive, stop := progressing(ctx)
	defer stop()
	stream, err := putTalk.Open(ctx, to)
	if err != nil {
		return because(ctx, err)
	}
	defer stream.Close()
	h, err := json.Marshal(putHeader{Job: job, Item: item})
	if err != nil {
		return err
	}
	header := cluster.NewFrame(len(h))
	copy(header.Bytes(), h)
	err = stream.Send(header)
	if err == nil {
		err = pieces(from, func(f *cluster.Frame) error {
			alive(stalled)
			return stream.Send(f)
		})
	}
	if err == nil {
		alive(storing)
		err = stream.CloseSend()
	}
	if err != nil && !errors.Is(err, cluster.ErrEnded) {
		return because(ctx, err)
	}
	_, err = stream.Recv() // which also knows why a stream has ended
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("%s: it ended without a word", to.Addr())
	}
	return because(ctx, err)
}

// getFrom receives a file from a peer. The caller checks it.
func getFrom(ctx context.Context, from *cluster.Conn, item Item, to io.Writer) error {
	ctx, alive, stop := progressing(ctx)
	defer stop()
	stream, err := getTalk.Open(ctx, from)
	if err != nil {
		return because(ctx, err)
	}
	defer stream.Close()
	if err := stream.Send(&item); err != nil && !errors.Is(err, cluster.ErrEnded) {
		return because(ctx, err)
	}
	for {
		piece, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return because(ctx, err)
		}
		alive(stalled)
		_, err = to.Write(piece.Bytes())
		piece.Free()
		if err != nil {
			return err
		}
	}
}

// because tells why a context that we gave up has ended.
func because(ctx context.Context, err error) error {
	if err != nil && errors.Is(context.Cause(ctx), errStalled) {
		return errStalled
	}
	return err
}
