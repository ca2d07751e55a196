"""The parts of `tests/docs/run`, each of which says what is wrong and goes on to the next."""

import argparse
import concurrent.futures
import sys

import balancers
import device
import links
import names
import pages
import planted
import settings
import source
import tests

ALONE = {"links": links.check, "tests": tests.check, "balancers": balancers.check}
WITH_NAMES = {"names": names.check, "settings": settings.check, "planted": planted.check}
WITH_PROGRAM = {"pages": pages.check, "device": device.check}


def main():
    parts = [*ALONE, *WITH_NAMES, *WITH_PROGRAM]
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", help="the gateway")
    parser.add_argument("part", nargs="*", help=" ".join(parts))
    options = parser.parse_args()
    wanted = options.part or parts
    if unknown := [part for part in wanted if part not in parts]:
        parser.error(f"there is no part {unknown[0]}")
    jobs = {part: check for part, check in ALONE.items() if part in wanted}
    left_out = [part for part in wanted if part not in ALONE and not options.bin]
    if options.bin:
        known = source.Known(options.bin)
        jobs |= {part: lambda check=check: check(known) for part, check in WITH_NAMES.items() if part in wanted}
        jobs |= {part: lambda check=check: check(options.bin) for part, check in WITH_PROGRAM.items() if part in wanted}
    # What waits for the gateway waits beside the rest.
    with concurrent.futures.ThreadPoolExecutor(len(jobs) or 1) as pool:
        results = {part: pool.submit(job) for part, job in jobs.items()}
    failed = False
    for part, result in results.items():
        found, note = result.result()
        failed |= bool(found)
        print(f"{part}: {'; '.join([note]) if not found else f'{len(found)} mistakes'}")
        for mistake in found:
            print(f"  {mistake}")
    for part in left_out:
        print(f"{part}: left out, as it needs --bin")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
