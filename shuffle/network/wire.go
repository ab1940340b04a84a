package network

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"

	"trestle/internal/cluster"
	"trestle/shuffle/driver"
)

// read is the one method: what goes up is a request and then credit, what comes
// down are blocks.
var read = cluster.NewTalk[cluster.Frame, cluster.Frame]("shuffle", "Read")

// The first byte of a frame says what it is.
const (
	kindOpened  = iota + 1 // down: the partitions are there, blocks may follow
	kindBlock              // down: a header, and the stored bytes unless they are longer than a piece
	kindPiece              // down: more of the last block's bytes
	kindEnd                // down: no blocks follow
	kindLost               // down: a trouble; partitions are missing or damaged
	kindFailed             // down: a trouble; it may pass
	kindRequest            // up
	kindCredit             // up: what has come, and what of it is worked off
)

const (
	// headerSize is that of a block.
	headerSize = 64
	// pieceSize bounds one frame's share of a block.
	pieceSize = 1 << 20
	// longestBlock bounds what a header may claim.
	longestBlock = 1 << 32
)

// A header goes before a block.
type header struct {
	driver.Stored        // Part counts in the request at hand
	seq           uint64 // of all blocks of the reading, from 0
}

// put writes the header and its checksum to b.
func (h *header) put(b []byte, seed uint64) {
	clear(b[:headerSize])
	b[0] = kindBlock
	if h.Packed {
		b[1] = 1
	}
	binary.LittleEndian.PutUint32(b[4:], uint32(h.Part))
	binary.LittleEndian.PutUint64(b[8:], h.seq)
	binary.LittleEndian.PutUint64(b[16:], uint64(h.Place))
	binary.LittleEndian.PutUint64(b[24:], uint64(h.Count))
	binary.LittleEndian.PutUint64(b[32:], uint64(h.Raw))
	binary.LittleEndian.PutUint64(b[40:], uint64(h.Size))
	binary.LittleEndian.PutUint64(b[48:], h.Sum)
	binary.LittleEndian.PutUint64(b[56:], driver.Checksum(b[:56], seed, 0))
}

var errGarbled = errors.New("what came over the network is garbled")

// getHeader reads a header. seed gives that of a partition of the request.
func getHeader(b []byte, seed func(part int) (uint64, bool)) (h header, err error) {
	if len(b) < headerSize {
		return h, errGarbled
	}
	h.Part = int(binary.LittleEndian.Uint32(b[4:]))
	s, ok := seed(h.Part)
	if !ok || binary.LittleEndian.Uint64(b[56:]) != driver.Checksum(b[:56], s, 0) {
		return h, errGarbled
	}
	h.Packed = b[1] == 1
	h.seq = binary.LittleEndian.Uint64(b[8:])
	h.Place = int64(binary.LittleEndian.Uint64(b[16:]))
	count, raw, size := binary.LittleEndian.Uint64(b[24:]), binary.LittleEndian.Uint64(b[32:]), binary.LittleEndian.Uint64(b[40:])
	h.Sum = binary.LittleEndian.Uint64(b[48:])
	if count > 1<<62 || raw > longestBlock || size > longestBlock || !h.Packed && raw != size {
		return h, errGarbled
	}
	h.Count, h.Raw, h.Size = int(count), int(raw), int(size)
	return h, nil
}

// A request opens a reading, or goes on with one.
type request struct {
	Exchange string `json:"exchange"`
	// Once says that the partitions can be read once only, and Reader names the
	// reading then, so that it can go on after the connection broke.
	Once   bool   `json:"once,omitempty"`
	Reader string `json:"reader,omitempty"`
	Parts  []run  `json:"parts"`
	Lo     int    `json:"lo"`
	Hi     int    `json:"hi"`
	Skip   int    `json:"skip,omitempty"` // blocks of the first partition
	Window int64  `json:"window"`
	progress
}

// progress is how far a reader has come.
type progress struct {
	Blocks   uint64 `json:"blocks,omitempty"`   // received
	Bytes    uint64 `json:"bytes,omitempty"`    // of elements received
	Consumed uint64 `json:"consumed,omitempty"` // of Bytes; nobody holds them any more
}

// A run is partitions of one dataset.
type run struct {
	Job     string   `json:"job"`
	Dataset string   `json:"dataset"`
	Index   []int    `json:"index"`
	Attempt []uint32 `json:"attempt"`
}

// runs are partitions, told shortly.
func runs(ids []driver.PartitionID) []run {
	var all []run
	for _, id := range ids {
		n := len(all)
		if n == 0 || all[n-1].Job != id.Job || all[n-1].Dataset != id.Dataset {
			all = append(all, run{Job: id.Job, Dataset: id.Dataset})
			n++
		}
		r := &all[n-1]
		r.Index, r.Attempt = append(r.Index, id.Index), append(r.Attempt, id.Attempt)
	}
	return all
}

func (q *request) ids() ([]driver.PartitionID, error) {
	var ids []driver.PartitionID
	for _, r := range q.Parts {
		if len(r.Index) != len(r.Attempt) {
			return nil, errors.New("a request names partitions without their attempts")
		}
		for i := range r.Index {
			ids = append(ids, driver.PartitionID{Job: r.Job, Dataset: r.Dataset, Index: r.Index[i], Attempt: r.Attempt[i]})
		}
	}
	if len(ids) == 0 || q.Skip < 0 || q.Once && q.Reader == "" {
		return nil, errors.New("a request lacks partitions or the reader's name")
	}
	return ids, nil
}

// A trouble ends a reading.
type trouble struct {
	Parts []int  `json:"parts,omitempty"` // that are lost, of the request
	Text  string `json:"text"`
}

// message makes a frame of a kind with a JSON body.
func message(kind byte, body any) (*cluster.Frame, error) {
	b, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	f := cluster.NewFrame(1 + len(b))
	f.Bytes()[0] = kind
	copy(f.Bytes()[1:], b)
	return f, nil
}

func kindOf(f *cluster.Frame) byte {
	if b := f.Bytes(); len(b) > 0 {
		return b[0]
	}
	return 0
}

// body reads the JSON body of a message.
func body(f *cluster.Frame, into any) error {
	if err := json.Unmarshal(f.Bytes()[1:], into); err != nil {
		return fmt.Errorf("read message: %w", err)
	}
	return nil
}

const numbersSize = 1 + 3*8

// numbers makes a frame of progress, for a reader's credit.
func numbers(kind byte, p progress) *cluster.Frame {
	f := cluster.NewFrame(numbersSize)
	b := f.Bytes()
	b[0] = kind
	binary.LittleEndian.PutUint64(b[1:], p.Blocks)
	binary.LittleEndian.PutUint64(b[9:], p.Bytes)
	binary.LittleEndian.PutUint64(b[17:], p.Consumed)
	return f
}

func getNumbers(f *cluster.Frame) (p progress, err error) {
	b := f.Bytes()
	if len(b) != numbersSize {
		return p, errGarbled
	}
	p.Blocks = binary.LittleEndian.Uint64(b[1:])
	p.Bytes = binary.LittleEndian.Uint64(b[9:])
	p.Consumed = binary.LittleEndian.Uint64(b[17:])
	return p, nil
}

// endFrame says how many blocks the reading had.
func endFrame(blocks uint64) *cluster.Frame { return numbers(kindEnd, progress{Blocks: blocks}) }
