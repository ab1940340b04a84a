// Command play runs a Kafka broker to play with, until it is told to end.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"trestle/itests/kafka/broker"
)

func main() {
	jars := flag.String("jars", ".cache/kafka", "where the broker's jars are")
	port := flag.Int("port", 9092, "where it listens, on 127.0.0.1")
	flag.Parse()
	if err := play(broker.Jars(*jars), *port); err != nil {
		fmt.Fprintln(os.Stderr, "kafka:", err)
		os.Exit(1)
	}
}

func play(jars broker.Jars, port int) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	dir, err := os.MkdirTemp("", "trestle-kafka-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	soon, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	b, err := broker.Start(soon, jars, dir, broker.Options{Port: port, Settings: []string{"auto.create.topics.enable=true"}})
	if err != nil {
		return err
	}
	fmt.Printf("Kafka answers at %s; what it stores is gone when it ends.\n", b.Plain)
	select {
	case <-ctx.Done():
		b.Stop()
	case <-b.Exited():
		return fmt.Errorf("the broker ended")
	}
	return nil
}
