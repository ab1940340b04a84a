package trestle.itests;

import java.io.PrintStream;
import java.lang.reflect.Method;
import java.nio.file.Paths;
import java.util.Arrays;
import java.util.Collections;
import java.util.HashSet;
import java.util.Set;
import java.util.TreeSet;
import java.util.jar.JarFile;
import java.util.stream.Collectors;
import org.apache.beam.sdk.testing.UsesJavaExpansionService;
import org.apache.beam.sdk.testing.UsesPythonExpansionService;
import org.apache.beam.sdk.testing.ValidatesRunner;
import org.apache.beam.sdk.transforms.ParDoTest;
import org.junit.Test;
import org.junit.experimental.categories.Categories.CategoryFilter;
import org.junit.runner.Description;
import org.junit.runner.JUnitCore;
import org.junit.runner.Request;
import org.junit.runner.manipulation.Filter;
import org.junit.runner.notification.Failure;
import org.junit.runner.notification.RunListener;

/**
 * Runs tests that Beam's Java SDK has for runners, the category ValidatesRunner, and prints what a
 * Go test binary prints: so one reader does for the suites of both.
 *
 * <p>{@code --list} prints a line for each test: class, space, test. {@code CLASS TEST...} runs
 * tests of one class, in the class's own order. The tests take the runner from the system property
 * {@code beamTestPipelineOptions}.
 *
 * <p>Tests that need an expansion service of their own are left out.
 */
public final class RunnerTests {
  private static final Filter CATEGORY =
      CategoryFilter.categoryFilter(
          true,
          Collections.singleton(ValidatesRunner.class),
          true,
          new HashSet<>(
              Arrays.asList(UsesJavaExpansionService.class, UsesPythonExpansionService.class)));

  private RunnerTests() {}

  public static void main(String[] args) throws Exception {
    // Tests may write to the streams; what the reader wants has one of its own.
    PrintStream out = System.out;
    System.setOut(System.err);
    if (args.length == 1 && args[0].equals("--list")) {
      list(out);
    } else {
      run(out, args[0], new HashSet<>(Arrays.asList(args).subList(1, args.length)));
    }
    out.flush();
    System.exit(0); // whatever threads are left
  }

  /** Lists the tests of all classes in the jar that has the SDK's tests. */
  private static void list(PrintStream out) throws Exception {
    String jar =
        Paths.get(ParDoTest.class.getProtectionDomain().getCodeSource().getLocation().toURI())
            .toString();
    Set<String> tests = new TreeSet<>();
    try (JarFile file = new JarFile(jar)) {
      for (String entry :
          file.stream().map(e -> e.getName()).collect(Collectors.toCollection(TreeSet::new))) {
        if (entry.startsWith("org/apache/beam/sdk/") && entry.endsWith(".class")) {
          String name = entry.substring(0, entry.length() - 6).replace('/', '.');
          try {
            Class<?> c = Class.forName(name, false, RunnerTests.class.getClassLoader());
            if (hasTests(c)) {
              collect(request(c).getRunner().getDescription(), tests);
            }
          } catch (LinkageError e) {
            System.err.println(name + ": " + e); // needs a library that isn't here
          }
        }
      }
    }
    tests.forEach(out::println);
  }

  private static boolean hasTests(Class<?> c) {
    for (Method m : c.getMethods()) {
      if (m.isAnnotationPresent(Test.class)) {
        return true;
      }
    }
    return false;
  }

  private static Request request(Class<?> c) {
    return Request.aClass(c).filterWith(CATEGORY);
  }

  private static void collect(Description d, Set<String> tests) {
    if (d.isTest() && d.getMethodName() != null && CATEGORY.shouldRun(d)) {
      tests.add(d.getClassName() + " " + d.getMethodName());
    }
    d.getChildren().forEach(child -> collect(child, tests));
  }

  private static void run(PrintStream out, String name, Set<String> tests) throws Exception {
    Filter named =
        new Filter() {
          @Override
          public boolean shouldRun(Description d) {
            return d.isTest()
                ? tests.contains(d.getMethodName())
                : d.getChildren().stream().anyMatch(this::shouldRun);
          }

          @Override
          public String describe() {
            return "tests " + tests;
          }
        };
    JUnitCore core = new JUnitCore();
    core.addListener(new Printer(out));
    core.run(request(Class.forName(name)).filterWith(named));
  }

  /** Prints how each test goes. */
  private static final class Printer extends RunListener {
    private final PrintStream out;
    private long start;
    private String status;

    Printer(PrintStream out) {
      this.out = out;
    }

    @Override
    public void testStarted(Description d) {
      start = System.nanoTime();
      status = "PASS";
      say("=== RUN   " + d.getMethodName());
    }

    @Override
    public void testIgnored(Description d) {
      testStarted(d);
      status = "SKIP";
      testFinished(d);
    }

    @Override
    public void testAssumptionFailure(Failure f) {
      status = "SKIP";
      say(f.getTrace());
    }

    @Override
    public void testFailure(Failure f) {
      status = "FAIL";
      say(f.getTrace());
      // Once more what matters: only the end of what was said is shown.
      for (Throwable t = f.getException(); t != null; t = t.getCause()) {
        String text = String.valueOf(t);
        say("because " + text.substring(0, Math.min(text.length(), 500)));
      }
    }

    @Override
    public void testFinished(Description d) {
      double seconds = (System.nanoTime() - start) / 1e9;
      say(String.format("--- %s: %s (%.2fs)", status, d.getMethodName(), seconds));
    }

    /** Begins a line, though something on the error stream may have left one half done. */
    private void say(String line) {
      out.print("\n" + line + "\n");
      out.flush();
    }
  }
}
