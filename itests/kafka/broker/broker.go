// Package broker runs a real Apache Kafka for tests and for people who want to
// play: one node that is broker and controller at once, on loopback, in a
// directory of its own.
//
// The broker comes from Maven as jars (itests/java-kafka). Beside it runs a
// Tool, a program around the real Java clients, for what only they do: the
// broker's records are written by an independent producer and checked against
// an independent consumer.
//
// A broker that was started ends with the process that started it, however that
// ends.
package broker

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Jars are where the broker's class path is: the folder that `make kafka-jars`
// fills.
type Jars string

func (j Jars) classPath() string {
	return filepath.Join(string(j), "kafka-tool.jar") + string(os.PathListSeparator) + filepath.Join(string(j), "lib", "*")
}

// Ready reports whether the jars are there.
func (j Jars) Ready() bool {
	_, err := os.Stat(filepath.Join(string(j), ".ready"))
	return err == nil
}

// Options of a broker. The zero value is good.
type Options struct {
	// Port is where it listens; any free one if 0.
	Port int
	// Settings are lines for its server.properties.
	Settings []string
	// Log gets what the broker writes; a file in its directory if nil.
	Log *os.File
}

// A Broker is a running Kafka.
type Broker struct {
	// Plain is the bootstrap address without security, Secured the one that
	// wants TLS and SASL (see User and Password).
	Plain, Secured string
	// Authority is the certificate that Secured's is signed by, as PEM.
	Authority string

	dir     string
	jars    Jars
	args    []string
	log     *os.File
	process *process
}

// User and Password are accepted at Secured, by PLAIN and by SCRAM.
const (
	User     = "reader"
	Password = "reader's secret; \"quoted\""
)

// Start starts a broker in dir and waits until it answers.
func Start(ctx context.Context, jars Jars, dir string, o Options) (*Broker, error) {
	ports, err := FreePorts(3)
	if err != nil {
		return nil, err
	}
	if o.Port != 0 {
		ports[0] = o.Port
	}
	b, err := prepare(ctx, jars, dir, ports, o)
	if err != nil {
		return nil, err
	}
	return b, b.Restart(ctx)
}

// StartCluster starts brokers that keep each record three times, or as often as
// there are brokers, and acknowledge what two have. Any of them may be killed.
func StartCluster(ctx context.Context, jars Jars, dir string, n int) ([]*Broker, error) {
	ports, err := FreePorts(3 * n)
	if err != nil {
		return nil, err
	}
	var voters []string
	for i := range n {
		voters = append(voters, fmt.Sprintf("%d@127.0.0.1:%d", i+1, ports[3*i+1]))
	}
	copies := min(n, 3)
	var all []*Broker
	for i := range n {
		own := filepath.Join(dir, fmt.Sprintf("broker%d", i+1))
		if err := os.Mkdir(own, 0o700); err != nil {
			return nil, err
		}
		b, err := prepare(ctx, jars, own, ports[3*i:3*i+3], Options{Settings: []string{
			fmt.Sprintf("node.id=%d", i+1),
			"controller.quorum.voters=" + strings.Join(voters, ","),
			fmt.Sprintf("default.replication.factor=%d", copies),
			fmt.Sprintf("offsets.topic.replication.factor=%d", copies),
			fmt.Sprintf("transaction.state.log.replication.factor=%d", copies),
			fmt.Sprintf("min.insync.replicas=%d", min(n, 2)),
			fmt.Sprintf("transaction.state.log.min.isr=%d", min(n, 2)),
			"broker.session.timeout.ms=4000",
			"broker.heartbeat.interval.ms=500",
		}})
		if err != nil {
			return nil, err
		}
		all = append(all, b)
	}
	errs := make([]error, n)
	var starts sync.WaitGroup
	for i, b := range all {
		starts.Go(func() { errs[i] = b.Restart(ctx) })
	}
	starts.Wait()
	if err := errors.Join(errs...); err != nil {
		for _, b := range all {
			b.Kill()
		}
		return nil, err
	}
	return all, nil
}

// prepare makes a broker's files. Settings that come twice count as said last.
func prepare(ctx context.Context, jars Jars, dir string, ports []int, o Options) (*Broker, error) {
	tls, err := newCertificate()
	if err != nil {
		return nil, err
	}
	b := &Broker{
		Plain:     fmt.Sprintf("127.0.0.1:%d", ports[0]),
		Secured:   fmt.Sprintf("127.0.0.1:%d", ports[2]),
		Authority: tls.authority,
		dir:       dir, jars: jars, log: o.Log,
	}
	if b.log == nil {
		if b.log, err = os.Create(filepath.Join(dir, "kafka.log")); err != nil {
			return nil, err
		}
	}
	config := filepath.Join(dir, "server.properties")
	if err := os.WriteFile(config, []byte(b.properties(ports, tls, o.Settings)), 0o600); err != nil {
		return nil, err
	}
	quiet := filepath.Join(dir, "log4j.properties")
	if err := os.WriteFile(quiet, []byte(log4j), 0o600); err != nil {
		return nil, err
	}
	b.args = []string{
		"-Xmx512m", "-Xms128m", "-XX:+UseSerialGC", "-Dlog4j.configuration=file:" + quiet,
		"-cp", jars.classPath(),
	}
	format := exec.CommandContext(ctx, "java", append(b.args[:len(b.args):len(b.args)], "kafka.tools.StorageTool", "format",
		"-t", "dHJlc3RsZS1pdGVzdHMtMQ", "-c", config,
		"--add-scram", scram("SCRAM-SHA-256"), "--add-scram", scram("SCRAM-SHA-512"))...)
	if said, err := format.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("format the broker's storage: %w: %s", err, said)
	}
	return b, nil
}

func scram(mechanism string) string {
	return fmt.Sprintf(`%s=[name=%s,password=%s]`, mechanism, User, Password)
}

// Restart starts the broker after Kill or Stop, at the same address and with
// what it has stored.
func (b *Broker) Restart(ctx context.Context) error {
	args := append(b.args[:len(b.args):len(b.args)], "kafka.Kafka", filepath.Join(b.dir, "server.properties"))
	p, err := startProcess(exec.Command("java", args...), b.log)
	if err != nil {
		return err
	}
	b.process = p
	return b.awaitAnswer(ctx)
}

// awaitAnswer polls the address until somebody is there.
func (b *Broker) awaitAnswer(ctx context.Context) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-b.process.exited:
			return fmt.Errorf("the broker ended at its start: %w\n%s", b.process.err, b.tail())
		case <-ctx.Done():
			b.Kill()
			return fmt.Errorf("the broker did not start: %w\n%s", ctx.Err(), b.tail())
		case <-tick.C:
		}
		conn, err := net.DialTimeout("tcp", b.Plain, time.Second)
		if err == nil {
			return conn.Close()
		}
	}
}

func (b *Broker) tail() string {
	text, err := os.ReadFile(b.log.Name())
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-4<<10):])
}

// Stop lets the broker end by itself.
func (b *Broker) Stop() {
	b.process.signal(syscall.SIGTERM)
	select {
	case <-b.process.exited:
	case <-time.After(20 * time.Second):
		b.Kill()
	}
}

// Kill ends the broker at once.
func (b *Broker) Kill() {
	if b.process == nil {
		return // it was never started
	}
	b.process.signal(syscall.SIGKILL)
	<-b.process.exited
}

// Exited is closed when the broker has ended.
func (b *Broker) Exited() <-chan struct{} { return b.process.exited }

// CPU is the time that the broker has used.
func (b *Broker) CPU() (time.Duration, error) { return cpuOf(b.process.cmd.Process.Pid) }

func (b *Broker) properties(ports []int, tls certificate, more []string) string {
	jaas := func(module, rest string) string {
		return "org.apache.kafka.common.security." + module + " required" + rest + ";"
	}
	lines := []string{
		"process.roles=broker,controller",
		"node.id=1",
		fmt.Sprintf("controller.quorum.voters=1@127.0.0.1:%d", ports[1]),
		fmt.Sprintf("listeners=PLAIN://127.0.0.1:%d,CONTROLLER://127.0.0.1:%d,SECURED://127.0.0.1:%d", ports[0], ports[1], ports[2]),
		"listener.security.protocol.map=PLAIN:PLAINTEXT,CONTROLLER:PLAINTEXT,SECURED:SASL_SSL",
		"controller.listener.names=CONTROLLER",
		"inter.broker.listener.name=PLAIN",
		"log.dirs=" + filepath.Join(b.dir, "data"),
		"sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
		"listener.name.secured.plain.sasl.jaas.config=" + jaas("plain.PlainLoginModule", " user_"+User+"="+quoted(Password)),
		"listener.name.secured.scram-sha-256.sasl.jaas.config=" + jaas("scram.ScramLoginModule", ""),
		"listener.name.secured.scram-sha-512.sasl.jaas.config=" + jaas("scram.ScramLoginModule", ""),
		"ssl.keystore.type=PEM",
		"ssl.keystore.key=" + oneLine(tls.key),
		"ssl.keystore.certificate.chain=" + oneLine(tls.chain),
		"auto.create.topics.enable=false",
		"offsets.topic.replication.factor=1",
		"offsets.topic.num.partitions=1",
		"transaction.state.log.replication.factor=1",
		"transaction.state.log.min.isr=1",
		"transaction.state.log.num.partitions=1",
		"group.initial.rebalance.delay.ms=0",
		"message.max.bytes=30000000",
		"log.cleaner.backoff.ms=200",
		"log.cleaner.dedupe.buffer.size=20000000",
		"log.retention.hours=-1",
		"log.retention.check.interval.ms=1000",
		"log.segment.delete.delay.ms=100",
	}
	return strings.Join(append(lines, more...), "\n") + "\n"
}

// quoted is a value in a properties file's JAAS line: quoted for JAAS, and then
// its backslashes for the properties file.
func quoted(s string) string {
	jaas := `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
	return strings.ReplaceAll(jaas, `\`, `\\`)
}

// oneLine is a PEM as a value in a properties file.
func oneLine(pem string) string { return strings.ReplaceAll(strings.TrimSpace(pem), "\n", `\n`) }

const log4j = `log4j.rootLogger=WARN, out
log4j.appender.out=org.apache.log4j.ConsoleAppender
log4j.appender.out.layout=org.apache.log4j.PatternLayout
log4j.appender.out.layout.ConversionPattern=%d %p %c: %m%n
`

// FreePorts finds ports of 127.0.0.1 that nobody listens at. They are none of
// those that the system gives to who dials, which may be taken while a process is
// away that is to come back to its address.
func FreePorts(n int) ([]int, error) {
	var ports []int
	for tries := 0; len(ports) < n; tries++ {
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(12_000+rand.IntN(18_000))))
		if err != nil && tries < 100 {
			continue
		}
		if err != nil {
			return nil, err
		}
		defer l.Close() // all at the end, so that they differ
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}

// A process is a child that ends when we do, and its own children with it.
type process struct {
	cmd    *exec.Cmd
	exited chan struct{}
	err    error // once exited
}

// startProcess starts a command in a process group of its own. It is started by
// a thread that lives as long as the child, because the system ends the child
// with that thread.
func startProcess(cmd *exec.Cmd, log *os.File) (*process, error) {
	if cmd.Stderr == nil {
		cmd.Stderr = log
	}
	if cmd.Stdout == nil {
		cmd.Stdout = log
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	p := &process{cmd: cmd, exited: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		p.err = errors.Join(cmd.Wait(), errors.New("exited"))
		close(p.exited)
	}()
	return p, <-started
}

func (p *process) signal(s syscall.Signal) {
	select {
	case <-p.exited:
	default:
		_ = syscall.Kill(-p.cmd.Process.Pid, s)
	}
}

var clockTicks = sync.OnceValue(func() int64 { return 100 }) // Linux' USER_HZ

// cpuOf reads a process' user and system time.
func cpuOf(pid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	var user, system int64
	if _, err := fmt.Sscan(fields[11]+" "+fields[12], &user, &system); err != nil {
		return 0, err
	}
	return time.Duration(user+system) * time.Second / time.Duration(clockTicks()), nil
}
