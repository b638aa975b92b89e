"""Slices of fluency: plain sentences in the languages that a tokenizer covers."""

from __future__ import annotations

from workers.abilities.probe import Area, Probe, Right, SliceKind, given, target
from workers.abilities.source import Source

SENTENCES = (
    "Le train pour la ville part tous les matins à huit heures et demie.",
    "Nous avons mangé du pain et du fromage avant de rentrer à la maison.",
    "Ma sœur cherche une maison avec un petit jardin près de la rivière.",
    "Les enfants jouent dans la cour pendant que leur mère prépare le dîner.",
    "Le musée est fermé le lundi, mais le café d'à côté reste ouvert.",
    "Mon grand-père lit le journal chaque soir et s'endort dans son fauteuil.",
    "Der Zug nach Hamburg fährt jeden Morgen um acht Uhr ab.",
    "Wir haben gestern Abend lange auf der Terrasse gesessen und geredet.",
    "Meine Schwester sucht eine Wohnung mit einem kleinen Garten am Fluss.",
    "Die Kinder spielen im Hof, während ihre Mutter das Essen kocht.",
    "Das Museum ist montags geschlossen, aber das Café daneben hat geöffnet.",
    "Mein Großvater liest jeden Abend die Zeitung und schläft dann im Sessel ein.",
    "El tren de la mañana sale siempre a las ocho en punto de la estación.",
    "Compramos pan, queso y fruta en el mercado antes de volver a casa.",
    "Mi hermana busca una casa con un jardín pequeño cerca del río.",
    "Los niños juegan en el patio mientras su madre prepara la cena.",
    "El museo cierra los lunes, pero el café de al lado está abierto.",
    "Mi abuelo lee el periódico todas las noches y luego se duerme en el sillón.",
    "Il treno per la città parte ogni mattina alle otto e mezza.",
    "Abbiamo comprato il pane e la frutta al mercato prima di tornare a casa.",
    "Mia sorella cerca una casa con un piccolo giardino vicino al fiume.",
    "I bambini giocano nel cortile mentre la madre prepara la cena.",
    "Il museo è chiuso il lunedì, ma il bar accanto è aperto.",
    "Mio nonno legge il giornale ogni sera e poi si addormenta in poltrona.",
    "O trem para a cidade sai todas as manhãs às oito e meia.",
    "Compramos pão e queijo no mercado antes de voltar para casa.",
    "A minha irmã procura uma casa com um jardim pequeno perto do rio.",
    "As crianças brincam no pátio enquanto a mãe prepara o jantar.",
    "O museu está fechado às segundas-feiras, mas o café ao lado está aberto.",
    "O meu avô lê o jornal todas as noites e depois adormece na poltrona.",
    "De trein naar de stad vertrekt elke ochtend om half negen.",
    "We hebben brood en kaas gekocht voordat we naar huis gingen.",
    "Mijn zus zoekt een huis met een kleine tuin dicht bij de rivier.",
    "De kinderen spelen buiten terwijl hun moeder het eten kookt.",
    "Het museum is op maandag gesloten, maar het café ernaast is open.",
    "Mijn opa leest elke avond de krant en valt dan in zijn stoel in slaap.",
    "Поезд в город отправляется каждое утро в половине девятого.",
    "Мы купили хлеб и сыр на рынке, а потом пошли домой.",
    "Моя сестра ищет дом с маленьким садом недалеко от реки.",
    "Дети играют во дворе, пока их мать готовит ужин.",
    "Музей закрыт по понедельникам, но кафе рядом открыто.",
    "Мой дедушка каждый вечер читает газету, а потом засыпает в кресле.",
    "开往城里的火车每天早上八点半出发。",
    "我们在市场上买了面包和水果，然后回家了。",
    "我的姐姐在找一所河边带小花园的房子。",
    "孩子们在院子里玩，他们的妈妈在做晚饭。",
    "博物馆星期一不开门，但是旁边的咖啡馆开着。",
    "我的爷爷每天晚上看报纸，然后在椅子上睡着了。",
    "町へ行く電車は毎朝八時半に出発します。",
    "私たちは市場でパンと果物を買ってから家に帰りました。",
    "姉は川の近くで小さな庭のある家を探しています。",
    "母が夕食を作っている間、子供たちは庭で遊んでいます。",
    "博物館は月曜日に休みですが、隣の喫茶店は開いています。",
    "祖父は毎晩新聞を読んで、それから椅子で眠ってしまいます。",
    "Pociąg do miasta odjeżdża codziennie rano o wpół do dziewiątej.",
    "Kupiliśmy chleb i ser na rynku, zanim wróciliśmy do domu.",
    "Moja siostra szuka domu z małym ogrodem blisko rzeki.",
    "Dzieci bawią się na podwórku, a ich matka gotuje obiad.",
    "Muzeum jest zamknięte w poniedziałki, ale kawiarnia obok jest otwarta.",
    "Mój dziadek co wieczór czyta gazetę, a potem zasypia w fotelu.",
    "Şehre giden tren her sabah sekiz buçukta kalkıyor.",
    "Eve dönmeden önce pazardan ekmek ve peynir aldık.",
    "Kız kardeşim nehrin yakınında küçük bahçeli bir ev arıyor.",
    "Çocuklar bahçede oynarken anneleri akşam yemeği hazırlıyor.",
    "Müze pazartesi günleri kapalı, ama yanındaki kafe açık.",
    "Dedem her akşam gazete okuyor ve sonra koltukta uyuyakalıyor.",
    "Tåget till staden går varje morgon klockan halv nio.",
    "Vi köpte bröd och ost på torget innan vi gick hem.",
    "Min syster söker ett hus med en liten trädgård nära floden.",
    "Barnen leker på gården medan deras mamma lagar middag.",
    "Museet är stängt på måndagar, men kaféet bredvid är öppet.",
    "Min farfar läser tidningen varje kväll och somnar sedan i fåtöljen.",
)  # fmt: skip
"""Six sentences in each of twelve languages, written for this project: three per purpose."""


def draw_sentence(source: Source) -> Probe:
    """Draw a sentence of one language; the text after its first third makes two items."""
    text = source.choose(SENTENCES)
    first, second = len(text) // 3, 2 * len(text) // 3
    return Probe((given(text[:first]), target(text[first:second]), target(text[second:])))


SLICES = (
    SliceKind(
        "languages", Area.LANGUAGE, "write other languages", draw_sentence, 2, Right.TOKENS
    ),
)  # fmt: skip
