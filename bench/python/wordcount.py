"""The SDK's own word count, its functions imported and not pickled.

As a module of its own the example needs no main session, which a worker that
is started by a command could not load.
"""

import logging
import sys

from apache_beam.examples import wordcount

if __name__ == '__main__':
  logging.getLogger().setLevel(logging.WARNING)
  wordcount.run(sys.argv[1:], save_main_session=False)
