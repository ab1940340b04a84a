package kafka

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A Source says what of a cluster's history is wanted. Resolve makes exact
// ranges of it.
type Source struct {
	Connection Connection `json:"connection"`
	Topics     []string   `json:"topics"`
	// Start and Stop bound what is read of each partition, from its first record
	// to what is there now if nothing is said.
	Start Bound `json:"start,omitzero"`
	Stop  Bound `json:"stop,omitzero"`
	// MaxRecords bounds the records of all topics together, 0 for no bound. The
	// first partitions are read first.
	MaxRecords int64 `json:"max_records,omitempty"`
	// Uncommitted also gives records of open and of aborted transactions.
	Uncommitted bool `json:"uncommitted,omitempty"`
	// OpenTransactions says what is done where an open transaction keeps the end
	// of a range from being read.
	OpenTransactions OpenTransactions `json:"open_transactions,omitempty"`
	// EarliestAvailable begins with what is there where retention has eaten the
	// start; else that is an error.
	EarliestAvailable bool `json:"earliest_available,omitempty"`
	// FetchBytes is how much is asked for at a time; 4 MiB if 0.
	FetchBytes int32 `json:"fetch_bytes,omitempty"`
	// Group and Reset say where a Live starts for which Start says nothing. They
	// mean nothing to a replay, which has no latest, though.
	Group string `json:"group,omitempty"`
	Reset Reset  `json:"reset,omitempty"`
}

const noLatest = "a replay reads what is there, and nothing is there after the latest record; leave it out, or say earliest"

// A Bound is a place in every partition: the offset said for it, or else the
// first record of that time or later.
type Bound struct {
	Time    *int64           `json:"time,omitempty"` // milliseconds since 1970
	Offsets map[string]int64 `json:"offsets,omitempty"`
}

// offset is the one said for a partition.
func (b Bound) offset(topic string, partition int32) (int64, bool) {
	if o, ok := b.Offsets[topic+":"+strconv.Itoa(int(partition))]; ok {
		return o, true
	}
	o, ok := b.Offsets[strconv.Itoa(int(partition))]
	return o, ok
}

// OpenTransactions is a choice; see the constants.
type OpenTransactions string

const (
	// Exclude ends the range before the first record of an open transaction, and
	// reports that.
	Exclude OpenTransactions = "exclude"
	// Await waits until the transaction has ended.
	Await OpenTransactions = "wait"
	// Refuse is an error that names the transaction's producer.
	Refuse OpenTransactions = "fail"
)

// Keys of the consumer config beside Kafka's own.
const (
	keyStop             = "trestle.stop"
	keyStartOffsets     = "trestle.start.offsets"
	keyStopOffsets      = "trestle.stop.offsets"
	keyStartTime        = "trestle.start.time"
	keyStopTime         = "trestle.stop.time"
	keyRetention        = "trestle.retention"
	keyOpenTransactions = "trestle.open.transactions"
	keyMaxDelay         = "trestle.max.delay.ms"
	keyIdleAfter        = "trestle.idle.after.ms"
)

// A setter takes one key's value into a source.
type setter func(s *Source, value string) error

// consumerKeys are all that a consumer config may have. Those without a setter
// mean nothing to a replay. No key names a file or an address beside the
// brokers'.
var consumerKeys = map[string]setter{
	"auto.offset.reset": func(s *Source, v string) error {
		s.Reset = Reset(v)
		return oneOf(v, string(FromEarliest), string(FromLatest), string(FromNowhere))
	},
	"group.id": func(s *Source, v string) error { s.Group = v; return nil },
	"isolation.level": func(s *Source, v string) error {
		s.Uncommitted = v == "read_uncommitted"
		return oneOf(v, "read_committed", "read_uncommitted")
	},
	"max.partition.fetch.bytes": func(s *Source, v string) error {
		n, err := strconv.ParseInt(v, 10, 32)
		if err != nil || n < 1<<10 || n > 256<<20 {
			return errors.New("want a number of bytes from 1024 to 268435456")
		}
		s.FetchBytes = int32(n)
		return nil
	},
	keyStop: func(_ *Source, v string) error { return oneOf(v, "now") },
	keyStartOffsets: func(s *Source, v string) (err error) {
		s.Start.Offsets, err = parseOffsets(v)
		return err
	},
	keyStopOffsets: func(s *Source, v string) (err error) {
		s.Stop.Offsets, err = parseOffsets(v)
		return err
	},
	keyStartTime: func(s *Source, v string) (err error) {
		s.Start.Time, err = parseTime(v)
		return err
	},
	keyStopTime: func(s *Source, v string) (err error) {
		s.Stop.Time, err = parseTime(v)
		return err
	},
	keyRetention: func(s *Source, v string) error {
		s.EarliestAvailable = v == "earliest-available"
		return oneOf(v, "earliest-available", "fail")
	},
	keyOpenTransactions: func(s *Source, v string) error {
		s.OpenTransactions = OpenTransactions(v)
		return oneOf(v, string(Exclude), string(Await), string(Refuse))
	},
	"allow.auto.create.topics": nil, "auto.commit.interval.ms": nil, "check.crcs": nil, "enable.auto.commit": nil,
	"exclude.internal.topics": nil, "fetch.max.bytes": nil, "fetch.max.wait.ms": nil, "fetch.min.bytes": nil,
	keyMaxDelay: nil, keyIdleAfter: nil,
	"group.instance.id": nil, "heartbeat.interval.ms": nil, "max.poll.interval.ms": nil,
	"max.poll.records": nil, "session.timeout.ms": nil, "key.deserializer": nil, "value.deserializer": nil,
}

// A linkSetter takes one key's value into a connection.
type linkSetter func(c *Connection, value string) error

// linkKeys are what consumer and producer config have in common.
var linkKeys = map[string]linkSetter{
	"bootstrap.servers": func(c *Connection, v string) error {
		for _, s := range strings.Split(v, ",") {
			if s = strings.TrimSpace(s); s != "" {
				// Clients allow a protocol before the address.
				if _, address, ok := strings.Cut(s, "://"); ok {
					s = address
				}
				c.Servers = append(c.Servers, s)
			}
		}
		return nil
	},
	"client.id": func(c *Connection, v string) error { c.ClientID = v; return nil },
	"security.protocol": func(c *Connection, v string) error {
		c.Protocol = v
		return oneOf(v, "PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
	},
	"sasl.mechanism": func(c *Connection, v string) error {
		c.Mechanism = v
		return oneOf(v, "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
	},
	"sasl.jaas.config": func(c *Connection, v string) (err error) {
		c.User, c.Password, err = parseJAAS(v)
		return err
	},
	"ssl.truststore.type":            onlyPEM,
	"ssl.keystore.type":              onlyPEM,
	"ssl.truststore.certificates":    func(c *Connection, v string) error { c.Authorities = unfold(v); return nil },
	"ssl.keystore.certificate.chain": func(c *Connection, v string) error { c.Certificate = unfold(v); return nil },
	"ssl.keystore.key":               func(c *Connection, v string) error { c.Key = Secret(unfold(v)); return nil },
	"ssl.endpoint.identification.algorithm": func(c *Connection, v string) error {
		c.AnyName = v == ""
		return oneOf(strings.ToLower(v), "https", "")
	},
	"request.timeout.ms": func(c *Connection, v string) (err error) {
		c.CallTimeout, err = parseMillis(v)
		return err
	},
	"default.api.timeout.ms": func(c *Connection, v string) (err error) {
		c.Patience, err = parseMillis(v)
		return err
	},
	"connections.max.idle.ms": nil, "metadata.max.age.ms": nil, "receive.buffer.bytes": nil, "send.buffer.bytes": nil,
	"reconnect.backoff.ms": nil, "reconnect.backoff.max.ms": nil, "retry.backoff.ms": nil, "retry.backoff.max.ms": nil,
	"client.dns.lookup": nil, "ssl.protocol": nil, "ssl.enabled.protocols": nil,
}

func onlyPEM(_ *Connection, v string) error { return oneOf(v, "PEM") }

// unfold turns the \n of properties files into line ends.
func unfold(pem string) string { return strings.ReplaceAll(pem, `\n`, "\n") }

// ParseConsumer reads a consumer config. All that is wrong is in the error, and
// no value of a key that may be secret.
func ParseConsumer(config map[string]string) (Source, error) {
	var s Source
	var errs []error
	for _, key := range slices.Sorted(maps.Keys(config)) {
		set, known := consumerKeys[key]
		switch {
		case set != nil:
			errs = append(errs, named("consumer config", key, set(&s, config[key])))
		case known:
		default:
			errs = append(errs, setLink("consumer config", &s.Connection, key, config[key]))
		}
	}
	return s, errors.Join(errs...)
}

// ParseLive reads a consumer config of what is read without an end. Its Policy has
// no Stamp.
func ParseLive(config map[string]string) (Live, error) {
	var l Live
	var errs []error
	var err error
	l.Source, err = ParseConsumer(config)
	errs = append(errs, err)
	if v := config[keyMaxDelay]; v != "" && v != "0" {
		l.MaxDelay, err = parseMillis(v)
		errs = append(errs, named("consumer config", keyMaxDelay, err))
	}
	switch v := config[keyIdleAfter]; v {
	case "":
	case "never":
		l.IdleAfter = -1
	default:
		if l.IdleAfter, err = parseMillis(v); err != nil {
			errs = append(errs, named("consumer config", keyIdleAfter, errors.New("want a number of milliseconds, or never")))
		}
	}
	if strings.EqualFold(config["enable.auto.commit"], "true") {
		errs = append(errs, errors.New("consumer config enable.auto.commit: offsets are committed with the bundles that read up to them; use commit_offset_in_finalize, and leave this out"))
	}
	return l, errors.Join(errs...)
}

// setLink sets a key that consumers and producers have in common.
func setLink(where string, c *Connection, key, value string) error {
	set, known := linkKeys[key]
	switch {
	case set != nil:
		return named(where, key, set(c, value))
	case known:
		return nil
	case strings.HasSuffix(key, ".location") || strings.HasSuffix(key, ".url"):
		return fmt.Errorf("%s %s: values that name files or addresses are not allowed; give certificates inline (ssl.truststore.type=PEM and ssl.truststore.certificates)", where, key)
	}
	return fmt.Errorf("%s %s is not supported; leave it out", where, key)
}

func named(where, key string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s %s: %w", where, key, err)
}

func oneOf(v string, allowed ...string) error {
	if slices.Contains(allowed, v) {
		return nil
	}
	return fmt.Errorf("want %s", strings.Join(allowed, " or "))
}

// parseOffsets reads PARTITION:OFFSET or TOPIC:PARTITION:OFFSET, comma separated.
func parseOffsets(text string) (map[string]int64, error) {
	all := map[string]int64{}
	for _, one := range strings.Split(text, ",") {
		one = strings.TrimSpace(one)
		at := strings.LastIndexByte(one, ':')
		if at < 0 {
			return nil, fmt.Errorf("%q: want PARTITION:OFFSET or TOPIC:PARTITION:OFFSET", one)
		}
		offset, err := strconv.ParseInt(one[at+1:], 10, 64)
		partition := one[:at]
		if topic := strings.LastIndexByte(partition, ':'); topic >= 0 {
			partition = partition[topic+1:]
		}
		if _, bad := strconv.ParseUint(partition, 10, 31); bad != nil || err != nil || offset < 0 {
			return nil, fmt.Errorf("%q: want PARTITION:OFFSET or TOPIC:PARTITION:OFFSET", one)
		}
		all[one[:at]] = offset
	}
	return all, nil
}

// parseTime reads milliseconds since 1970, or RFC 3339.
func parseTime(text string) (*int64, error) {
	if ms, err := strconv.ParseInt(text, 10, 64); err == nil && ms >= 0 {
		return &ms, nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return nil, fmt.Errorf("%q: want milliseconds since 1970, or a time like 2006-01-02T15:04:05Z", text)
	}
	ms := t.UnixMilli()
	return &ms, nil
}

func parseMillis(text string) (time.Duration, error) {
	ms, err := strconv.ParseInt(text, 10, 32)
	if err != nil || ms < 1 {
		return 0, errors.New("want a number of milliseconds")
	}
	return time.Duration(ms) * time.Millisecond, nil
}
