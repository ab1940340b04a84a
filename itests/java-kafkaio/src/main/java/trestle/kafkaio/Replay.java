package trestle.kafkaio;

import java.nio.charset.StandardCharsets;
import org.apache.beam.sdk.Pipeline;
import org.apache.beam.sdk.PipelineResult;
import org.apache.beam.sdk.io.TextIO;
import org.apache.beam.sdk.io.kafka.KafkaIO;
import org.apache.beam.sdk.io.kafka.KafkaRecord;
import org.apache.beam.sdk.options.PipelineOptions;
import org.apache.beam.sdk.options.PipelineOptionsFactory;
import org.apache.beam.sdk.options.Validation;
import org.apache.beam.sdk.transforms.MapElements;
import org.apache.beam.sdk.transforms.windowing.FixedWindows;
import org.apache.beam.sdk.transforms.windowing.Window;
import org.apache.beam.sdk.values.TypeDescriptors;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.joda.time.Duration;
import org.joda.time.Instant;

/**
 * Reads a topic with the SDK's own KafkaIO, bounded by what its user says, and writes a line for
 * each record; with --to it writes keys and values to another topic.
 */
public final class Replay {

  /** What is read, how far, and where it goes. */
  public interface Options extends PipelineOptions {
    @Validation.Required
    String getServers();

    void setServers(String value);

    @Validation.Required
    String getTopic();

    void setTopic(String value);

    String getOutput();

    void setOutput(String value);

    String getTo();

    void setTo(String value);

    Long getMaxNumRecords();

    void setMaxNumRecords(Long value);

    Long getStopReadTime();

    void setStopReadTime(Long value);
  }

  private Replay() {}

  public static void main(String[] args) {
    Options options = PipelineOptionsFactory.fromArgs(args).withValidation().as(Options.class);
    KafkaIO.Read<byte[], byte[]> read =
        KafkaIO.<byte[], byte[]>read()
            .withBootstrapServers(options.getServers())
            .withTopic(options.getTopic())
            .withKeyDeserializer(ByteArrayDeserializer.class)
            .withValueDeserializer(ByteArrayDeserializer.class)
            .withCreateTime(Duration.ZERO)
            .withReadCommitted()
            .withConsumerConfigUpdates(java.util.Map.of("auto.offset.reset", "earliest"));
    if (options.getMaxNumRecords() != null) {
      read = read.withMaxNumRecords(options.getMaxNumRecords());
    }
    if (options.getStopReadTime() != null) {
      read = read.withStopReadTime(new Instant(options.getStopReadTime()));
    }
    Pipeline pipeline = Pipeline.create(options);
    if (options.getTo() == null) {
      pipeline
          .apply("Read", read)
          .apply("Line", MapElements.into(TypeDescriptors.strings()).via(Replay::line))
          .apply("Windows", Window.into(FixedWindows.of(Duration.standardDays(36500))))
          .apply("Write", TextIO.write().to(options.getOutput()).withWindowedWrites().withNumShards(1));
    } else {
      pipeline
          .apply("Read", read.withoutMetadata())
          .apply(
              "Write",
              KafkaIO.<byte[], byte[]>write()
                  .withBootstrapServers(options.getServers())
                  .withTopic(options.getTo())
                  .withKeySerializer(ByteArraySerializer.class)
                  .withValueSerializer(ByteArraySerializer.class));
    }
    PipelineResult.State end = pipeline.run().waitUntilFinish();
    if (end != PipelineResult.State.DONE) {
      System.err.println("the job ended as " + end);
      System.exit(1);
    }
  }

  private static String line(KafkaRecord<byte[], byte[]> r) {
    return r.getPartition() + " " + r.getOffset() + " " + r.getTimestamp() + " "
        + new String(r.getKV().getKey(), StandardCharsets.UTF_8) + " " + r.getKV().getValue().length;
  }
}
