package trestle.kafka;

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Base64;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Random;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.RecordsToDelete;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.PartitionInfo;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * Carries out commands with the real Java clients: a line in, any number of lines out, the last of
 * them "ok" or "error TEXT". Bytes are base64, "~" is none of them, and "-" is null.
 *
 * <pre>
 * topic NAME PARTITIONS [CONFIG=VALUE...]
 * producer ID [CONFIG=VALUE...]         with a transactional.id it takes part in transactions
 * begin|commit|abort|flush|close ID
 * send ID TOPIC PARTITION TIMESTAMP KEY VALUE [HEADER=VALUE...]   partition -: the producer's choice
 * bulk ID TOPIC PARTITION COUNT BYTES FIRST   values of that size, keys numbered from FIRST
 * delete TOPIC PARTITION OFFSET         records before the offset
 * consume TOPIC [CONFIG=VALUE...]       all that is there: partition offset timestamp key value headers
 * </pre>
 */
public final class Tool {
  private final String servers;
  private final PrintStream out = new PrintStream(System.out, false, StandardCharsets.UTF_8);
  private final Map<String, KafkaProducer<byte[], byte[]>> producers = new HashMap<>();
  private final Admin admin;

  private Tool(String servers) {
    this.servers = servers;
    this.admin = Admin.create(Map.of("bootstrap.servers", servers));
  }

  public static void main(String[] args) throws Exception {
    Tool tool = new Tool(args[0]);
    BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    for (String line = in.readLine(); line != null; line = in.readLine()) {
      try {
        tool.carryOut(line.split(" "));
        tool.out.println("ok");
      } catch (Exception e) {
        tool.out.println("error " + String.valueOf(e).replace('\n', ' '));
      }
      tool.out.flush();
    }
    Runtime.getRuntime().halt(0); // open transactions stay open
  }

  private void carryOut(String[] w) throws Exception {
    switch (w[0]) {
      case "topic":
        NewTopic topic = new NewTopic(w[1], Optional.of(Integer.valueOf(w[2])), Optional.empty()).configs(configs(w, 3, Map.of()));
        admin.createTopics(List.of(topic)).all().get();
        return;
      case "producer":
        KafkaProducer<byte[], byte[]> made =
            new KafkaProducer<>(new HashMap<>(configs(w, 2, Map.of("bootstrap.servers", servers, "max.request.size", "20000000"))),
                new ByteArraySerializer(), new ByteArraySerializer());
        if (String.join(" ", w).contains("transactional.id=")) {
          made.initTransactions();
        }
        producers.put(w[1], made);
        return;
      case "begin":
        producers.get(w[1]).beginTransaction();
        return;
      case "commit":
        producers.get(w[1]).commitTransaction();
        return;
      case "abort":
        producers.get(w[1]).abortTransaction();
        return;
      case "flush":
        producers.get(w[1]).flush();
        return;
      case "close":
        producers.remove(w[1]).close();
        return;
      case "send":
        send(w);
        return;
      case "bulk":
        bulk(w);
        return;
      case "delete":
        admin.deleteRecords(Map.of(new TopicPartition(w[1], Integer.parseInt(w[2])),
            RecordsToDelete.beforeOffset(Long.parseLong(w[3])))).all().get();
        return;
      case "consume":
        consume(w);
        return;
      default:
        throw new IllegalArgumentException("unknown command " + w[0]);
    }
  }

  private void send(String[] w) throws Exception {
    List<Header> headers = new ArrayList<>();
    for (String h : Arrays.copyOfRange(w, 7, w.length)) {
      int at = h.indexOf('=');
      headers.add(new RecordHeader(h.substring(0, at), bytes(h.substring(at + 1))));
    }
    Long time = w[4].equals("-") ? null : Long.valueOf(w[4]);
    producers.get(w[1]).send(new ProducerRecord<>(w[2], w[3].equals("-") ? null : Integer.valueOf(w[3]), time, bytes(w[5]), bytes(w[6]), headers));
  }

  private void bulk(String[] w) {
    Random chance = new Random(1);
    byte[] letters = new byte[4096];
    for (int i = 0; i < letters.length; i++) {
      letters[i] = (byte) ('a' + chance.nextInt(26));
    }
    int size = Integer.parseInt(w[5]);
    long first = Long.parseLong(w[6]);
    for (long i = first; i < first + Long.parseLong(w[4]); i++) {
      byte[] value = new byte[size];
      for (int at = 0; at < size; ) {
        int from = chance.nextInt(letters.length / 2);
        int n = Math.min(size - at, letters.length / 2);
        System.arraycopy(letters, from, value, at, n);
        at += n;
      }
      producers.get(w[1]).send(new ProducerRecord<>(w[2], Integer.valueOf(w[3]),
          String.format("%010d", i).getBytes(StandardCharsets.UTF_8), value));
    }
  }

  private void consume(String[] w) {
    Map<String, Object> config = new HashMap<>(configs(w, 2, Map.of(
        "bootstrap.servers", servers, "isolation.level", "read_committed", "auto.offset.reset", "earliest",
        "fetch.max.bytes", "60000000", "max.partition.fetch.bytes", "30000000")));
    try (KafkaConsumer<byte[], byte[]> consumer =
        new KafkaConsumer<>(config, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
      List<TopicPartition> all = new ArrayList<>();
      for (PartitionInfo p : consumer.partitionsFor(w[1])) {
        all.add(new TopicPartition(p.topic(), p.partition()));
      }
      consumer.assign(all);
      consumer.seekToBeginning(all);
      Map<TopicPartition, Long> ends = consumer.endOffsets(all);
      while (all.stream().anyMatch(p -> consumer.position(p) < ends.get(p))) {
        for (ConsumerRecord<byte[], byte[]> r : consumer.poll(Duration.ofMillis(200))) {
          StringBuilder line = new StringBuilder();
          line.append(r.partition()).append(' ').append(r.offset()).append(' ').append(r.timestamp());
          line.append(' ').append(text(r.key())).append(' ').append(text(r.value()));
          for (Header h : r.headers()) {
            line.append(' ').append(h.key()).append('=').append(text(h.value()));
          }
          out.println(line);
        }
      }
    }
  }

  private static Map<String, String> configs(String[] w, int from, Map<String, String> more) {
    Map<String, String> all = new HashMap<>(more);
    for (String c : Arrays.copyOfRange(w, Math.min(from, w.length), w.length)) {
      int at = c.indexOf('=');
      all.put(c.substring(0, at), c.substring(at + 1));
    }
    return all;
  }

  private static byte[] bytes(String s) {
    return s.equals("-") ? null : Base64.getDecoder().decode(s.equals("~") ? "" : s);
  }

  private static String text(byte[] b) {
    return b == null ? "-" : b.length == 0 ? "~" : Base64.getEncoder().encodeToString(b);
  }
}
