// Package network reads the partitions that other TaskManagers keep.
//
// A Server gives the blocks of a TaskManager's drivers to others, a Client
// reads them: to its caller a remote partition looks like one of its own. One
// reading is one stream on the connection that the two processes share.
//
// What it promises is what drivers promise: committed blocks come as they were,
// each once, or an error comes. Blocks are checked where they arrive, against
// the checksum over bytes, place and partition that a blocking partition's
// writer made; on the way nothing is unpacked and packed again. Small blocks
// that nobody has packed yet are, where that helps.
//
// A reading has a window: that many bytes of elements may be under way or wait
// for the reader to take them. A server that has used it up stops to ask its
// driver, and so a slow reader holds up a pipelined partition's writer. It holds
// up nobody else on the connection: whoever receives always takes what comes.
//
// When the connection breaks, the reader connects again for a bounded time and
// goes on where it stopped. A blocking partition can be read again from any
// block. Of a pipelined one the server keeps what was not confirmed, and the
// driver's reader, for a while. What can't be reached in that time counts as
// lost: it is a *driver.PartitionError that names the TaskManager, for its
// partitions must be made elsewhere then. A TaskManager that answers, but can't
// read just now for want of its own resources, loses nothing: that is another
// error.
package network
