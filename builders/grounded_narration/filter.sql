-- Which boxes and rows are kept, by docs/grounding.md: view `source` -> view `filtered`. Settings are variables. A
-- reason is a number, its place in the lists of filtering.py; 0 is kept. Steps of one list are lists of their own,
-- since DuckDB works an expression out as often as a macro or lambda names it.

CREATE OR REPLACE TEMP MACRO is_whole(number) AS number = floor(number);

CREATE OR REPLACE TEMP MACRO slice(text, first, last) AS text[first::INTEGER + 1 : last::INTEGER];

-- Whether there is nothing but white space. The first character tells it nearly always, and quickly.
CREATE OR REPLACE TEMP MACRO is_blank(text) AS CASE
    WHEN text[1] > ' ' THEN false ELSE trim(text, e' \t\n\r') = '' END;

-- Where there is a limit. NaN is greater than any number here.
CREATE OR REPLACE TEMP MACRO is_low(number, least) AS
    least IS NOT NULL AND NOT coalesce(number >= least AND NOT isnan(number), false);

-- Why an item [start, end, x1, y1, x2, y2, score] is left out.
CREATE OR REPLACE TEMP MACRO item_reason(item, chars) AS CASE
    WHEN NOT coalesce(item[1] >= 0 AND item[1] < item[2] AND item[2] <= chars AND len(item) >= 6
                      AND is_whole(item[1]) AND is_whole(item[2]), false) THEN 1
    WHEN NOT coalesce(item[3] >= 0 AND item[4] >= 0 AND item[5] <= 1 AND item[6] <= 1
                      AND item[3] < item[5] AND item[4] < item[6], false) THEN 2
    WHEN least(item[5] - item[3], item[6] - item[4]) < getvariable('min_side') THEN 3
    WHEN is_low(item[7], getvariable('min_score')) THEN 4
    WHEN (item[5] - item[3]) * (item[6] - item[4]) > getvariable('max_area') THEN 5
    ELSE 0 END::UTINYINT;

-- The head noun of a phrase: its last word before a preposition. Most phrases have none.
CREATE OR REPLACE TEMP MACRO head_of_words(words) AS words[coalesce(
    list_position(list_transform(words, lambda word, place: place > 1 AND word IN (
        'of', 'in', 'on', 'with', 'for', 'at', 'by', 'from', 'to', 'near', 'that', 'which', 'who')), true) - 1,
    len(words))];

CREATE OR REPLACE TEMP MACRO head_of(phrase) AS CASE
    WHEN regexp_matches(phrase, '\s(?:of|in|on|with|for|at|by|from|to|near|that|which|who)(?:\s|$)|\s$|[\t\n\r]')
        THEN list_transform([list_filter(string_split(translate(phrase, e'\t\n\r', '   '), ' '),
            lambda word: word <> '')], lambda words: head_of_words(words))[1]
    ELSE split_part(phrase, ' ', -1) END;

CREATE OR REPLACE TEMP MACRO without_possessive(word) AS
    CASE WHEN ends_with(word, '''s') THEN word[:-3] ELSE word END;

CREATE OR REPLACE TEMP MACRO singular(word) AS CASE
    WHEN list_contains(getvariable('plurals'), word)
        THEN getvariable('singulars')[list_position(getvariable('plurals'), word)]
    WHEN length(word) <= 3 OR NOT ends_with(word, 's') THEN word
    WHEN ends_with(word, 'ss') OR ends_with(word, 'us') OR ends_with(word, 'is') THEN word
    WHEN ends_with(word, 'ies') THEN word[:-4] || 'y'
    WHEN ends_with(word, 'ches') OR ends_with(word, 'shes') OR ends_with(word, 'sses')
        OR ends_with(word, 'xes') OR ends_with(word, 'zes') THEN word[:-3]
    ELSE word[:-2] END;

CREATE OR REPLACE TEMP VIEW filtered AS
WITH reasoned AS (
    SELECT *, CASE
        WHEN caption IS NULL OR is_blank(caption) THEN 1
        WHEN chars > getvariable('max_caption_chars') THEN 2
        WHEN is_low(clip_similarity_vitb32, getvariable('min_clip_similarity_vitb32')) THEN 3
        WHEN is_low(clip_similarity_vitl14, getvariable('min_clip_similarity_vitl14')) THEN 3
        WHEN coalesce(len(noun_chunks), 0) = 0 THEN 4
        ELSE 0 END::UTINYINT AS text_reason
    FROM (SELECT *, length(caption) AS chars FROM source)
), looked_at AS (
    SELECT *, CASE WHEN text_reason = 0 THEN
        list_transform(noun_chunks, lambda item: item_reason(item, chars)) END AS item_reasons
    FROM reasoned
), sound AS (
    SELECT *, list_filter(noun_chunks, lambda item, place: item_reasons[place] = 0) AS items FROM looked_at
), called AS (
    SELECT *, CASE WHEN len(items) > getvariable('max_instances') THEN
        list_transform(list_transform(list_transform(list_transform(list_transform(items,
            lambda item: lower(slice(caption, item[1], item[2]))),
            lambda phrase: head_of(phrase)),
            lambda word: trim(coalesce(word, ''), '.,;:!?"''()[]')),
            lambda word: without_possessive(word)),
            lambda word: singular(word)) END AS categories
    FROM sound
), counted AS (
    SELECT *, CASE WHEN categories IS NOT NULL THEN list_max(list_transform(categories,
        lambda category: len(list_filter(categories, lambda other: other = category)))) ELSE 0 END AS most
    FROM called
), decided AS (
    SELECT *, CASE
        WHEN text_reason > 0 THEN text_reason
        WHEN getvariable('malformed_drops_image')
            AND (list_contains(item_reasons, 1) OR list_contains(item_reasons, 2)) THEN 5
        WHEN getvariable('large_drops_image') AND list_contains(item_reasons, 5) THEN 6
        WHEN len(items) = 0 THEN 7
        WHEN most > getvariable('max_instances') THEN 8
        ELSE 0 END::UTINYINT AS reason
    FROM counted
)
SELECT * FROM decided;

-- Every row with its reason; what is narrated of those that are kept, or may be: 8 says only that a category has many
-- boxes, not yet how many instances these are.
CREATE OR REPLACE TEMP VIEW narratable AS
SELECT place, id, reason, item_reasons,
    CASE WHEN reason IN (0, 8) THEN key END AS key,
    CASE WHEN reason IN (0, 8) THEN url END AS url,
    CASE WHEN reason IN (0, 8) THEN width END AS width,
    CASE WHEN reason IN (0, 8) THEN height END AS height,
    CASE WHEN reason IN (0, 8) THEN caption END AS caption,
    CASE WHEN reason IN (0, 8) THEN chars END AS chars,
    CASE WHEN reason IN (0, 8) THEN clip_similarity_vitb32 END AS clip_similarity_vitb32,
    CASE WHEN reason IN (0, 8) THEN clip_similarity_vitl14 END AS clip_similarity_vitl14,
    CASE WHEN reason IN (0, 8) THEN image_phash END AS image_phash,
    CASE WHEN reason IN (0, 8) THEN noun_chunks END AS noun_chunks,
    CASE WHEN reason IN (0, 8) THEN ref_exps END AS ref_exps,
    CASE WHEN reason IN (0, 8) THEN categories END AS categories
FROM filtered;

-- Rejected rows as they are shown, with all their items.
CREATE OR REPLACE TEMP VIEW shown AS
SELECT place, key, id, url, width, height, caption,
    list_transform(coalesce(noun_chunks, []), lambda item: struct_pack(
        text := CASE WHEN item_reason(item, chars) <> 1 THEN slice(caption, item[1], item[2]) END,
        start := TRY_CAST(item[1] AS INTEGER),
        "end" := TRY_CAST(item[2] AS INTEGER),
        boxes := [[coalesce(item[3], 'nan'), coalesce(item[4], 'nan'),
                   coalesce(item[5], 'nan'), coalesce(item[6], 'nan')]],
        score := item[7])) AS phrases,
    noun_chunks, item_reasons, categories
FROM filtered;
